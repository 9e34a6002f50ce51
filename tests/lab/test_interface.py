from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.lab import interface
from dagrad_bus.lab.interface import Traffic, count_here, enclosed, run_inside, why_not

SENDS = """
import socket
heard = socket.create_server(("127.0.0.1", 0))
one = socket.create_connection(heard.getsockname())
other, _ = heard.accept()
one.sendall(b"x" * 100_000)
got = 0
while got < 100_000:
    got += len(other.recv(65536))
print("heard", got)
"""
FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(float(sys.argv[1]))
"""


def _runs(pid: int) -> bool:
    """Return whether a process computes; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def allowed() -> None:
    if reason := why_not():
        pytest.skip(reason)


def test_the_words_name_the_command_once_and_untouched() -> None:
    words = enclosed(["python", "-c", "a b; $c"])
    assert words[0] == "unshare"
    assert words[-3:] == ["python", "-c", "a b; $c"]


def test_a_machine_without_the_tools_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert why_not() == "needs unshare and ip (packages util-linux and iproute2)"
    with pytest.raises(UsageError, match="needs unshare and ip"):
        run_inside(["true"], timeout=1)


@pytest.mark.slow
def test_a_refused_namespace_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(command: list[str]) -> list[str]:
        return ["sh", "-c", f"echo {command[0]}: Operation not permitted >&2; exit 1"]

    monkeypatch.setattr(interface, "enclosed", refuse)
    assert interface._refusal.__wrapped__().endswith("true: Operation not permitted")


def test_counters_are_read_and_subtracted(tmp_path: Path) -> None:
    table = tmp_path / "dev"
    rows = ["Inter-| Receive | Transmit", "    lo: 1 2 0 0 0 0 0 0 900 30 0 0 0 0 0 0", "  eth0: " + "7 " * 16]
    table.write_text("\n".join(rows))
    with table.open() as file:
        assert interface._read(file).less(Traffic(400, 10)) == Traffic(500, 20)
    table.write_text(rows[2])
    with table.open() as file, pytest.raises(UsageError, match="has no lo"):
        interface._read(file)


def test_the_own_namespace_has_counters() -> None:
    first, second = count_here(), count_here()
    assert second.less(first).sent >= 0


@pytest.mark.slow
@pytest.mark.usefixtures("allowed")
def test_what_a_command_sends_is_counted_and_nothing_else() -> None:
    ran = run_inside([sys.executable, "-c", SENDS], timeout=15)
    assert (ran.returncode, ran.tail, ran.timed_out) == (0, "heard 100000\n", False)
    assert 100_000 < ran.traffic.sent < 103_000
    assert 4 < ran.traffic.packets < 100
    assert run_inside(["true"], timeout=15).traffic == Traffic(0, 0)


@pytest.mark.slow
@pytest.mark.usefixtures("allowed")
def test_tail_loss_probes_are_off_inside_and_as_they_were_outside(tmp_path: Path) -> None:
    path = Path("/proc/sys/net/ipv4/tcp_early_retrans")
    before = path.read_text()
    ran = run_inside(["cat", str(path)], timeout=20, log=tmp_path / "log")
    if os.geteuid() == 0:
        assert ran.tail.strip() == "0"
    assert ran.returncode == 0 and path.read_text() == before


@pytest.mark.slow
@pytest.mark.usefixtures("allowed")
def test_exit_code_environment_and_log_are_handed_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    ran = run_inside(["sh", "-c", "echo $WORD; read x; exit 7"], timeout=15, environ={"WORD": "hello"}, log=log)
    assert (ran.returncode, ran.tail, log.read_text()) == (7, "hello\n", "hello\n")


@pytest.mark.slow
@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_nothing_outlives_the_call(seconds: float) -> None:
    began = time.monotonic()
    ran = run_inside([sys.executable, "-c", FAMILY, str(seconds)], timeout=2)
    assert ran.timed_out == bool(seconds)
    assert ran.returncode == (-9 if seconds else 0)
    assert time.monotonic() - began < 10
    assert not _runs(int(ran.tail))


@pytest.mark.slow
@pytest.mark.usefixtures("allowed")
def test_a_command_that_does_not_exist_has_its_exit_code() -> None:
    ran = run_inside(["no-such-program-here"], timeout=15)
    assert ran.returncode == 127
    assert "no-such-program-here" in ran.tail
