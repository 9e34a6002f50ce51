"""The training thread and the bus thread: hand-over in both directions, failures, ends."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dagrad_bus.blocks import Entry, Layout
from dagrad_bus.codec import Value, to_wire
from dagrad_bus.errors import BusClosed, StartError, UsageError
from dagrad_bus.events import Arrival, Outcome, Outgoing, Selection
from dagrad_bus.handoff import SWITCH_INTERVAL, BusThread, loop_factory
from dagrad_bus.ids import JobId, NodeId, Step
from dagrad_bus.settings import Settings, TransportSettings
from dagrad_bus.wire import Kind

LAYOUT = Layout((Entry("x", (100,), "float32"),), (), 1)
Until = Callable[[Callable[[], object]], Awaitable[None]]
Wait = Callable[[Callable[[], object]], None]


@pytest.fixture
def wait(timeout_factor: float) -> Wait:
    """Return what waits for a condition from a plain thread."""

    def wait_for(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 5 * timeout_factor
        while not condition():
            assert time.monotonic() < deadline, "in vain"
            time.sleep(0.002)

    return wait_for


@pytest.fixture(params=["asyncio", "uvloop"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Settings]:
    """Return what makes the settings of worker ``index`` of two, on one of the loops."""

    def make(index: int = 0, **transport: Any) -> Settings:
        chosen = TransportSettings(loop=request.param, **transport)
        return Settings(run="r", name=f"w{index}", members=("w0", "w1"), directory=tmp_path, transport=chosen)

    return make


@pytest.fixture
def stack() -> Generator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def frame(job: int, to: NodeId, value: float = 1.0) -> Outgoing:
    chosen = Selection(np.arange(3), *to_wire(np.full((3, 1), value, dtype=np.float32), Value.F32))
    return Outgoing(JobId(job), (to,), Kind.STATE, Value.F32, chosen, Step(job), 1.0, time.monotonic())


# Inbox -----------------------------------------------------------------------------------------------------------


def test_frames_and_outcomes_cross_the_threads(settings: Callable[..., Settings], wait: Wait, stack: ExitStack) -> None:
    a, b = (stack.enter_context(BusThread(settings(n), LAYOUT)) for n in range(2))
    wait(lambda: a.view().links[0].ready and b.view().links[0].ready)
    peer = a.view().links[0].peer
    arrivals: list[Arrival] = []
    outcomes: list[Outcome] = []
    for job in range(1, 21):
        wait(lambda: ready(a, outcomes))
        assert a.publish(frame(job, peer, job))
        wait(lambda: keep(b, arrivals))
    wait(lambda: ready(a, outcomes) and len(outcomes) == 20)
    assert outcomes == [Outcome(JobId(job), peer, True) for job in range(1, 21)]
    assert [int(arrival.step) for arrival in arrivals] == list(range(1, 21))
    assert [float(arrival.selection.values[0, 0]) for arrival in arrivals] == list(range(1, 21))


def test_launched_workers_find_each_other_by_a_seed_without_any_folder(
    settings: Callable[..., Settings], wait: Wait, stack: ExitStack
) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    names = tuple(f"w{n}" for n in range(4))
    seeds = (("w0", f"tcp://127.0.0.1:{port}"),)
    buses: list[BusThread] = []
    for n in (2, 3, 1, 0):
        made = settings(n, inbox_port=port if n == 0 else 0)
        buses.append(stack.enter_context(BusThread(replace(made, members=names, directory=None, seeds=seeds), LAYOUT)))
    wait(lambda: all(len(links := bus.view().links) == 3 and all(link.ready for link in links) for bus in buses))


def ready(bus: BusThread, outcomes: list[Outcome]) -> bool:
    view = bus.view()
    outcomes.extend(view.outcomes)
    return view.links[0].ready


def keep(bus: BusThread, arrivals: list[Arrival]) -> bool:
    taken = bus.view().arrivals
    arrivals.extend(taken)
    return bool(taken)


def test_a_link_with_a_frame_in_hand_is_not_ready(
    settings: Callable[..., Settings], wait: Wait, stack: ExitStack
) -> None:
    a, _ = (stack.enter_context(BusThread(settings(n), LAYOUT)) for n in range(2))
    wait(lambda: a.view().links[0].ready)
    peer, held, go = a.view().links[0].peer, threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        go.wait(10)

    a._inbox.put(hold)
    held.wait(5)
    try:
        assert a.view().links[0].ready
        assert a.publish(frame(1, peer))
        assert not a.view().links[0].ready
        assert a.publish(frame(2, NodeId(b"?" * 16)))
        assert not a.view().links[0].ready  # the first one is still in hand
        while a.publish(frame(3, peer)):
            pass
        assert not a.publish(frame(4, peer))  # full: no wait, nothing taken
    finally:
        go.set()
    wait(lambda: a.view().links[0].ready)


def test_all_frames_of_a_link_are_handed_over_oldest_first(
    settings: Callable[..., Settings], wait: Wait, stack: ExitStack
) -> None:
    a, b = (stack.enter_context(BusThread(settings(n), LAYOUT)) for n in range(2))
    wait(lambda: a.view().links[0].ready)
    peer = a.view().links[0].peer
    a.publish(frame(1, peer, 1.0))
    wait(lambda: a.view().links[0].ready)
    a.publish(frame(2, peer, 2.0))
    wait(lambda: b._bus.mailbox.waiting(b._bus.neighbours[0]) == 2)
    assert [arrival.selection.values[0, 0] for arrival in b.view().arrivals] == [1.0, 2.0]


def test_a_wait_ends_when_something_arrives_and_not_much_later_than_asked(
    settings: Callable[..., Settings], wait: Wait, stack: ExitStack
) -> None:
    one = stack.enter_context(BusThread(settings(0), LAYOUT))
    other = stack.enter_context(BusThread(settings(1), LAYOUT))
    wait(lambda: any(link.ready for link in one.view().links))
    wait(lambda: any(link.ready for link in other.view().links))
    began = time.monotonic()
    other.wait(0.01)
    other.wait(0.05)
    assert time.monotonic() - began < 5
    assert one.publish(frame(1, one.view().links[0].peer))
    found: list[Arrival] = []
    began = time.monotonic()
    while not found and time.monotonic() - began < 20:
        other.wait(60.0)  # heartbeats end it as well
        found.extend(other.view().arrivals)
    assert [arrival.step for arrival in found] == [1]
    one.close()
    with pytest.raises(BusClosed):
        one.wait(1.0)


def test_a_failed_start_is_raised_in_the_caller_and_leaves_nothing(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    former = sys.getswitchinterval()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=str(port)):
            BusThread(settings(1, inbox_port=port, advertise_inbox_port=9), LAYOUT)  # forwarded: no other port will do
    assert sys.getswitchinterval() == former
    assert not (tmp_path / "workers").exists()


def test_after_close_everything_is_refused_and_closing_again_is_harmless(settings: Callable[..., Settings]) -> None:
    bus = BusThread(settings(), LAYOUT)
    bus.close()
    bus.close()
    with pytest.raises(BusClosed):
        bus.view()
    with pytest.raises(BusClosed):
        bus.publish(frame(1, NodeId(bytes(16))))
    assert bus.failure() is None


def test_the_bus_thread_cannot_close_itself(settings: Callable[..., Settings], wait: Wait) -> None:
    with BusThread(settings(), LAYOUT) as bus:
        caught: list[Exception] = []

        def close() -> None:
            try:
                bus.close()
            except UsageError as error:
                caught.append(error)

        bus._inbox.put(close)
        wait(lambda: caught)
    assert "on the bus thread" in str(caught[0])


def test_what_the_bus_thread_dies_of_comes_out(settings: Callable[..., Settings], wait: Wait, tmp_path: Path) -> None:
    bus = BusThread(settings(), LAYOUT)

    def bug() -> None:
        raise RuntimeError("a bug")

    bus._inbox.put(bug)
    wait(lambda: bus.failure() is not None)
    assert "a bug" in str(bus.failure())
    with pytest.raises(BusClosed) as caught:
        bus.view()
    assert isinstance(caught.value.__cause__, RuntimeError)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="a bug"):
            bus.close()
    assert lines(tmp_path, "w0")[-1]["reason"] == "RuntimeError"
    assert lines(tmp_path, "w0")[-1]["event"] == "end"


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # forking beside threads is what is tested
def test_a_forked_child_is_told_and_can_leave(settings: Callable[..., Settings]) -> None:
    with BusThread(settings(), LAYOUT) as bus:
        child = os.fork()
        if child == 0:  # no assertion may leave this branch
            code = 1
            try:
                bus.view()
            except UsageError:
                bus.close()
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        bus.view()


def test_the_switch_interval_is_put_back(settings: Callable[..., Settings]) -> None:
    former = sys.getswitchinterval()
    sys.setswitchinterval(0.004)
    try:
        with BusThread(settings(), LAYOUT):
            assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL)
        assert sys.getswitchinterval() == pytest.approx(0.004)
    finally:
        sys.setswitchinterval(former)


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "workers" / f"{name}.jsonl").read_text().splitlines()]


def test_the_run_folder_tells_the_story(settings: Callable[..., Settings], tmp_path: Path) -> None:
    with pytest.raises(KeyError), BusThread(settings(), LAYOUT) as bus:
        bus.note_step(3, 2.5)
        bus.log(loss=0.25)
        bus.sample(3, np.zeros(2, dtype=np.float32))
        bus.metrics.count("frames_mixed", 4)
        raise KeyError
    found = lines(tmp_path, "w0")
    assert found[0]["event"] == "start"
    log = next(line for line in found if line["event"] == "log")
    assert (log["loss"], log["step"]) == (0.25, 3)
    assert any(line["event"] == "sample" for line in found)
    end = found[-1]
    assert (end["event"], end["reason"], end["step"], end["counters"]["frames_mixed"]) == ("end", "KeyError", 3, 4)


def test_closing_is_quick(
    settings: Callable[..., Settings], wait: Wait, stack: ExitStack, timeout_factor: float
) -> None:
    a, b = (stack.enter_context(BusThread(settings(n), LAYOUT)) for n in range(2))
    wait(lambda: a.view().links[0].ready and b.view().links[0].ready)
    started = time.monotonic()
    stack.close()
    assert time.monotonic() - started < 2 * timeout_factor


def test_no_call_waits_while_the_loop_is_held(settings: Callable[..., Settings], wait: Wait) -> None:
    with BusThread(settings(), LAYOUT) as bus:
        held, go = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            go.wait(10)

        bus._inbox.put(hold)
        held.wait(5)
        try:
            started = time.monotonic()
            for job in range(200):
                bus.view()
                bus.publish(frame(job, NodeId(bytes(16))))
                bus.note_step(job, 1.0)
                bus.snapshot()
            assert time.monotonic() - started < 1.0
        finally:
            go.set()


def test_an_unknown_loop_falls_back_to_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert loop_factory("uvloop") is asyncio.new_event_loop
    assert loop_factory("asyncio") is asyncio.new_event_loop
