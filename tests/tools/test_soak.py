from __future__ import annotations

import json
import shlex

import pytest
from click.testing import CliRunner

from dagrad_bus.link import InLink
from dagrad_bus.sim.options import draw
from dagrad_bus.tools.soak import replay, soak


def test_one_seed_tells_what_it_was() -> None:
    ran = CliRunner().invoke(soak, ["--seed", "3", "--workers", "3:4", "--horizon", "5"])
    assert ran.exit_code == 0, ran.output
    assert "seed 3: ok" in ran.output
    assert "trace" in ran.output


def test_several_seeds_as_json_lines() -> None:
    ran = CliRunner().invoke(soak, ["--seeds", "0:3", "--workers", "3", "--horizon", "4", "--json"])
    assert ran.exit_code == 0, ran.output
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [line["options"]["seed"] for line in lines] == [0, 1, 2]
    assert all(line["ok"] and line["schema"] == "dagrad.soak/1" for line in lines)
    assert "3 of 3 runs, 0 failed" in ran.stderr


def test_a_failure_is_made_small_and_says_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(InLink, "data", fail)
    ran = CliRunner().invoke(soak, ["--seeds", "5:6", "--workers", "4:4", "--horizon", "8"])
    assert ran.exit_code == 1
    assert "crash" in ran.output and "oops" in ran.output
    again = next(line for line in ran.stdout.splitlines() if line.startswith("Again: "))
    words = shlex.split(again.removeprefix("Again: dagrad soak "))
    assert CliRunner().invoke(soak, words).exit_code == 1


def test_the_replay_command_draws_the_same_options() -> None:
    options = draw(9, (4, 12), 33.0)
    words = shlex.split(replay(options))
    value = dict(zip(words[2::2], words[3::2], strict=True))
    workers = int(value["--workers"])
    again = draw(int(value["--seed"]), (workers, workers), float(value["--horizon"]))
    assert again.horizon == pytest.approx(options.horizon)
    assert (again.workers, again.drop, again.window) == (options.workers, options.drop, options.window)
    assert tuple(value["--faults"].split(",")) == options.faults


@pytest.mark.parametrize("words", [["--seeds", "a:b"], ["--faults", "earthquake"], ["--jobs", "0"]])
def test_bad_options_are_refused(words: list[str]) -> None:
    ran = CliRunner().invoke(soak, words)
    assert ran.exit_code == 2
    assert "Error" in ran.output


def test_rows_and_sizes_are_measured_instead() -> None:
    ran = CliRunner().invoke(soak, ["--scenario", "crash", "--scale", "8", "--json"])
    assert ran.exit_code == 0, ran.output
    row, cost = (json.loads(line) for line in ran.stdout.splitlines())
    assert row["row"] == 1 and row["figures"]["p50"] < 2.5
    assert cost["workers"] == 8
