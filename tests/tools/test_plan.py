from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dagrad_bus.errors import UsageError
from dagrad_bus.tools.plan import parse_bandwidth, plan


def _call(*words: str) -> Result:
    return CliRunner().invoke(plan, list(words))


@pytest.mark.parametrize(
    ("text", "rate"), [("1Gbit", 125e6), ("100MB", 1e8), ("12.5 MB/s", 12.5e6), ("10Gbps", 1.25e9), ("8b", 1.0)]
)
def test_bandwidths_in_every_form(text: str, rate: float) -> None:
    assert parse_bandwidth(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "0Gbit", "-1MB", "5", "1Xbit"])
def test_what_is_no_bandwidth_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--bandwidth"):
        parse_bandwidth(text)


def test_the_plan_as_json() -> None:
    found = _call("--model", "25.6M", "-n", "16", "--density", "0.005", "--interval", "2", "--json")
    assert found.exit_code == 0, found.output
    made = json.loads(found.stdout)
    assert made["schema"] == "dagrad.plan/1" and made["rate_assumed"] and made["carried"]
    assert made["exchange"]["density"] == 0.005 and made["frame"]["count"] == 2000
    assert made["traffic"]["frames_per_step"] == 2 and made["traffic"]["dense_share"] < 0.01
    assert [worker["name"] for worker in made["workers"]] == [f"local.{number}" for number in range(16)]
    assert made["ports"] is None and made["memory"]["total"] > 4 * 25.6e6


def test_hosts_slots_and_ports_are_listed(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("ann@node1 slots=2 addr=10.0.0.1\nnode2\n")
    words = ("--model", "1e6", "--hostfile", str(tmp_path / "hosts"), "--port-range", "5000-6000")
    made = json.loads(_call(*words, "--json").stdout)
    assert [(worker["name"], worker["target"], worker["address"]) for worker in made["workers"]] == [
        ("node1.0", "ann@node1", "10.0.0.1"),
        ("node1.1", "ann@node1", "10.0.0.1"),
        ("node2.0", "node2", ""),
    ]
    assert made["ports"] == [5000, 6000] and set(made["leaving_bytes_per_second"]) == {"node1", "node2"}
    text = _call(*words).stdout
    assert "ann@node1" in text and "two of 5000-6000" in text and "hash-rings, 3 workers" in text


def test_too_little_bandwidth_gives_1() -> None:
    words = ("--model", "1.1e8", "-H", "a:2,b:2", "--rate", "5")
    poor = _call(*words, "--bandwidth", "100Mbit")
    assert poor.exit_code == 1 and "TOO LITTLE BANDWIDTH" in poor.stdout and "steps/s" in poor.stdout
    rich = _call(*words, "--bandwidth", "10Gbit")
    assert rich.exit_code == 0 and "carries it" in rich.stdout


@pytest.mark.parametrize(
    "words", [("--model", "1x"), ("--model", "1M", "--density", "2"), ("--model", "1M", "-H", "-x")]
)
def test_wrong_options_are_usage_errors(words: tuple[str, ...]) -> None:
    assert isinstance(_call(*words).exception, UsageError)


@pytest.mark.slow
def test_a_plan_imports_no_torch() -> None:
    program = (
        "import sys; from click.testing import CliRunner; from dagrad_bus.tools.plan import plan;"
        "assert CliRunner().invoke(plan, ['--model', '1M', '-n', '4']).exit_code == 0; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
