"""Some seeds in every run of the tests, many more in the slow tier; the rest at night, by ``dagrad soak``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from dagrad_bus.link import InLink
from dagrad_bus.sim.options import Options, draw
from dagrad_bus.sim.run import Result, run

FEW = 8
MANY = 500


@pytest.mark.parametrize("seed", range(FEW))
def test_a_small_seed_keeps_every_promise(seed: int) -> None:
    result = run(draw(seed, (4, 5), 10.0))
    assert result.ok, result.told()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_many_seeds_keep_every_promise() -> None:
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        failed = [result for result in pool.map(run, map(draw, range(MANY)), chunksize=8) if not result.ok]
    assert not failed, "\n\n".join(result.told() for result in failed)


def test_equal_seeds_play_equally() -> None:
    options = draw(7, (4, 5), 8.0)
    assert run(options) == run(options)


def test_a_seed_plays_alike_in_another_process() -> None:
    options = draw(11, (4, 5), 5.0)
    code = """
import json
from dagrad_bus.sim.options import draw
from dagrad_bus.sim.run import run
result = run(draw(11, (4, 5), 5.0))
print(json.dumps([result.trace, result.events]))
"""
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}  # the order of sets of bytes differs there
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=19
    )
    here = run(options)
    assert json.loads(ran.stdout) == [here.trace, here.events]


def test_a_core_that_raises_is_a_failure_that_names_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(InLink, "data", fail)
    result = run(Options(0, 3, 5.0))
    assert (result.ok, result.violation) == (False, "crash")
    assert "ZeroDivisionError: oops" in result.text
    assert "_arrive" in result.recent[-1]


def test_a_result_tells_seed_options_and_events() -> None:
    result = Result(Options(3), "BV", "what was seen", 1.5, recent=("first", "last"))
    told = result.told().splitlines()
    assert told[0] == "seed 3: BV at 1.500 s"
    assert "workers=6" in told[1]
    assert told[2:] == ["what was seen", "first", "last"]
