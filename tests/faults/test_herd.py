"""A herd starts, exchanges, is killed and restarted, and leaves nothing behind. Nursery, worker and ledger with it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from dagrad_bus.errors import StartError
from dagrad_bus.faults import ledger
from dagrad_bus.faults.herd import Herd, free_ports
from dagrad_bus.faults.lines import OrderFailed, ProcessGone

HerdOf = Callable[..., AbstractContextManager[Herd]]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


def test_a_herd_lives_and_leaves(herd_of: HerdOf) -> None:
    with herd_of(4) as herd:
        states = ledger.settle(herd, 10)
        assert not ledger.broken_links(herd) and not any(ledger.wrong_frames(states).values())
        assert min(state["counts"]["frames"] for state in states.values()) > 0
        herd.ask_all("set", quiet=False)
        assert ledger.await_agreement(herd, 0.01, 20)[1] <= 0.01
        old = herd["w1"].ask("state")["epoch"]
        herd.kill("w1")
        assert herd["w1"].exit == {"exited": herd["w1"].pid, "code": 0, "signal": signal.SIGKILL}
        with pytest.raises(ProcessGone):
            herd["w1"].signal(signal.SIGCONT)
        herd.start("w1")
        herd.await_linked(20)
        assert herd["w1"].ask("state")["epoch"] > old
        with pytest.raises(OrderFailed, match="no such switch"):
            herd["w1"].ask("set", nonsense=1)
        assert all(not left["threads"] and not left["descriptors"] for left in herd.leave().values())
        herd.until("all gone", lambda: not herd.running, 5)
        pids = [member.pid for member in herd.members.values()]
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_a_worker_that_cannot_start_says_why(herd_of: HerdOf) -> None:
    with herd_of(2, start=False, change={"degree": 3}) as herd, pytest.raises(StartError, match="degree"):
        herd.start("w0")


def test_nobody_outlives_the_herd(herd_of: HerdOf) -> None:
    with herd_of(2) as herd:
        pids = [member.pid for member in herd.members.values()]
        herd["w0"].signal(signal.SIGSTOP)
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ports_are_distinct_and_outside_the_range_of_who_connects() -> None:
    found = free_ports(5, {20_000})
    assert len(set(found)) == 5
    assert all(20_000 < port < 32_768 for port in found)
