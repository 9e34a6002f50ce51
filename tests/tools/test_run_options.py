from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from dagrad_bus.settings import PREFIX, from_environment
from dagrad_bus.tools.run import run
from dagrad_bus.tools.run_options import ENVIRONMENT, EXCHANGE, LIFE, SHOWN, WHERE, exchange_options, launch_options
from dagrad_bus.workers.launch.orders import RestartPolicy, Start

FIT = {
    "rule": "gradient", "density": "0.5", "block": "8", "interval": "2", "fanout": "1", "choice": "similar",
    "explore": "1", "w0": "0.5", "tau": "3", "age-power": "2", "clip": "3", "refresh": "0.1", "dirty": "0.4",
    "wire": "f16", "degree": "6", "topology": "ring", "seed": "7", "codec": "zlib", "loop": "asyncio",
}  # fmt: skip
"""A value of each option that is not its default."""


def parse(*words: str) -> dict[str, Any]:
    """Return what the options of ``words`` are read as."""
    found: dict[str, Any] = {}

    @click.command()
    @launch_options
    @exchange_options
    def command(**options: Any) -> None:
        found.update(options)

    result = CliRunner().invoke(command, words, catch_exceptions=False)
    if result.exit_code:
        raise click.UsageError(result.stderr)
    return found


def test_every_option_of_the_exchange_is_a_setting() -> None:
    plain = from_environment({})
    for option, _, _ in EXCHANGE:
        name = option.replace("-", "_")
        given = parse(f"--{option}", FIT[option])
        assert given[f"exchange_{name}"] == FIT[option]
        env = {f"{PREFIX}{name.upper()}": FIT[option]} | ({f"{PREFIX}FANOUT": "1"} if name == "choice" else {})
        assert from_environment(env) != plain, f"--{option} changes nothing"


def test_left_out_they_leave_the_environment_alone() -> None:
    assert all(value is None for name, value in parse().items() if name.startswith("exchange_"))


def test_defaults_are_those_of_the_orders() -> None:
    given, policy = parse(), RestartPolicy()
    assert (given["max_restarts"], given["on_failure"], given["restart_wedged"]) == (
        policy.most,
        "restart",
        policy.wedged,
    )
    assert given["grace"] == Start(run="r", host="", command=["x"], cwd="/").grace
    assert (given["lease"], given["detach"], given["engine"], given["workers"]) == (60.0, False, "auto", None)


@pytest.mark.parametrize(
    "words",
    [
        "-n 0", "-n 513", "--on mars", "--on-failure explode", "--max-restarts -1", "--min-workers 0", "--lease 0",
        "--grace -1", "--min-success 0", "--cpus -1", "--strategy ANY", "--sync /no/such/folder", "--progress loud",
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(words: str) -> None:
    with pytest.raises(click.UsageError):
        parse(*words.split())


def test_words_that_may_come_several_times() -> None:
    given = parse("--env", "A=1", "--env", "B", "--preload", "json", "--preload", "none")
    assert (given["env_words"], given["preload"]) == (("A=1", "B"), ("json", "none"))


def test_help_shows_each_once_with_a_text() -> None:
    options = [parameter for parameter in run.params if isinstance(parameter, click.Option)]
    names = [name for option in options for name in option.opts]
    assert len(names) == len(set(names))
    assert len(options) == 1 + len(WHERE) + len(LIFE) + len(ENVIRONMENT) + len(SHOWN) + len(EXCHANGE)
    assert all(option.help and option.help.endswith((".", "]")) for option in options)


def test_what_follows_the_command_is_the_commands() -> None:
    with run.make_context("run", ["-n", "4", "train.py", "-n", "9", "--lr", "1"]) as context:
        assert (context.params["workers"], context.params["words"]) == (4, ("train.py", "-n", "9", "--lr", "1"))
