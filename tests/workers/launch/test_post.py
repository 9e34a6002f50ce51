from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.errors import StartError
from dagrad_bus.workers.launch import post as post_module
from dagrad_bus.workers.launch.brief import Berth
from dagrad_bus.workers.launch.command import CommandNotFound
from dagrad_bus.workers.launch.mirror import Sink
from dagrad_bus.workers.launch.orders import (
    Add,
    Attach,
    CalledOff,
    Chunk,
    Drained,
    Exited,
    Fault,
    Finish,
    Hello,
    Kill,
    Located,
    Order,
    Ready,
    Renew,
    Report,
    RestartPolicy,
    Start,
    Started,
    Stop,
    WorkerOrder,
    encode,
    parse_order,
)
from dagrad_bus.workers.launch.pipes import Pipe
from dagrad_bus.workers.launch.post import Post

Until = Callable[[Callable[[], object]], Awaitable[None]]
HELLO = Hello(pid=9, python="3.11", version="0.1", wire=1)
READY = Ready(folder="/f", seconds=0.1)
GONE = Fault(text="none here", gone=True)
START = Start(run="ab", host="n1", command=["train.py"], cwd="/", lease=60.0, grace=0.0)


def started(n: int, name: str = "n1.0", attempt: int = 0) -> Started:
    return Started(n=n, name=name, pid=100 + n, attempt=attempt, time=1.0)


def exited(n: int, name: str = "n1.0", **how: Any) -> Exited:
    return replace(Exited(n=n, name=name, pid=100, attempt=0, time=2.0, code=0), **how)


class Line:
    """A pipe whose other end is the test."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.why = ""
        self.is_open = True
        self._lines: asyncio.Queue[bytes] = asyncio.Queue()

    def write(self, line: bytes) -> None:
        self.orders.append(parse_order(line))

    async def read(self) -> bytes:
        line = await self._lines.get()
        if not line:
            self._lines.put_nowait(b"")  # the end stays the end
        return line

    def describe_end(self) -> str:
        return self.why

    def say(self, *reports: Report | bytes) -> None:
        for report in reports:
            self._lines.put_nowait(report if isinstance(report, bytes) else encode(report))

    def cut(self, why: str = "") -> None:
        self.why = why
        self._lines.put_nowait(b"")


class Notes:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.events: list[tuple[Any, ...]] = []
        self.on_lost: Callable[[], None] = lambda: None

    def reported(self, post: Post, report: Report) -> None:
        self.reports.append(report)

    def connected(self, post: Post) -> None:
        self.events.append(("connected",))

    def cut(self, post: Post, why: str) -> None:
        self.events.append(("cut", why))

    def lost(self, post: Post, names: list[str], wait: float | None) -> None:
        self.events.append(("lost", names, wait))
        self.on_lost()

    def said(self, post: Post, text: str) -> None:
        self.events.append(("said", text))


class Rig:
    """A post, the lines it has opened, and what it told."""

    def __init__(self, until: Until, start: Start = START, *, sink: Sink | None = None, **options: Any) -> None:
        self.lines: list[Line] = []
        self.unreachable: BaseException | None = None
        self.notes = Notes()
        self._until = until
        workers = tuple(WorkerOrder(name=f"n1.{slot}", slot=slot) for slot in range(2))
        berth = Berth(label="n1", workers=workers, dial=self._dial)
        options.setdefault("gate", asyncio.Semaphore(1))
        self.post = Post(berth, replace(start, workers=list(workers)), sink, self.notes, **options)

    @asynccontextmanager
    async def _dial(self) -> AsyncGenerator[Pipe]:
        self.lines.append(Line())
        if self.unreachable is not None:
            raise self.unreachable
        try:
            yield self.lines[-1]
        finally:
            self.lines[-1].is_open = False

    async def line(self, number: int) -> Line:
        """Return the connection of that number, once it was opened."""
        await self._until(lambda: len(self.lines) > number)
        return self.lines[number]

    async def asked(self, number: int, kind: type[Order], count: int = 1) -> Any:
        """Return the last of ``count`` orders of a kind that a connection has brought."""
        line = await self.line(number)
        await self._until(lambda: len([one for one in line.orders if isinstance(one, kind)]) >= count)
        return [one for one in line.orders if isinstance(one, kind)][count - 1]

    async def serving(self) -> Line:
        """Return the first connection, its two workers started."""
        line = await self.line(0)
        line.say(HELLO, READY, started(1), started(2, "n1.1"))
        await self._until(lambda: len(self.notes.reports) == 3)
        return line

    def told(self, kind: str) -> list[tuple[Any, ...]]:
        return [event for event in self.notes.events if event[0] == kind]


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FIRST_PAUSE": 0.001, "LONGEST_PAUSE": 0.002, "FAREWELL": 0.05}.items():
        monkeypatch.setattr(post_module, name, value)


@asynccontextmanager
async def running(post: Post) -> AsyncGenerator[asyncio.Task[None]]:
    """Run a post beside the block, and wait for its end."""
    try:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            yield group.create_task(post.run())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


@pytest.mark.asyncio
async def test_a_host_from_hello_to_finish(until: Until) -> None:
    rig = Rig(until)
    async with running(rig.post):
        line = await rig.line(0)
        line.say(b"Welcome to n1!\n", b'{"no": "report"}\n', HELLO)
        assert await rig.asked(0, Start) == rig.post.start
        assert not rig.post.send(Renew())  # nothing is said before it is ready
        line.say(READY, started(1), started(2, "n1.1"), exited(3, "n1.1"))
        await until(lambda: rig.post.unfinished == ["n1.0"])
        assert rig.post.send(Renew()) and rig.post.has_served
        line.say(Drained(), exited(4, code=7), Drained())  # the first one comes too early
        await rig.asked(0, Finish)
        line.cut()
    assert [type(order) for order in line.orders] == [Start, Renew, Finish]
    assert rig.notes.events == [("said", "Welcome to n1!"), ("said", '{"no": "report"}'), ("connected",)]
    assert [getattr(report, "n", 0) for report in rig.notes.reports] == [0, 1, 2, 3, 4]
    assert not line.is_open and not rig.post.send(Renew())


@pytest.mark.asyncio
async def test_another_version_is_an_error_and_not_a_host_to_dial_again(until: Until) -> None:
    rig = Rig(until)
    with pytest.raises(StartError, match=r"n1: its agent speaks version 2.*\(there: 0\.1\)"):
        async with running(rig.post):
            (await rig.line(0)).say(replace(HELLO, v=2))
    assert len(rig.lines) == 1 and not rig.lines[0].is_open


@pytest.mark.asyncio
@pytest.mark.parametrize("code", [0, 256, -1])
async def test_a_fault_is_never_a_success(until: Until, code: int) -> None:
    rig = Rig(until)
    with pytest.raises(CommandNotFound) as failure:
        async with running(rig.post):
            (await rig.line(0)).say(HELLO, Fault(text="odd", code=code))
    assert failure.value.code == 125


@pytest.mark.asyncio
async def test_a_fault_before_it_is_ready_has_the_exit_code_it_deserves(until: Until) -> None:
    rig = Rig(until)
    with pytest.raises(CommandNotFound, match=r"n1: nope\.py: no such file") as failure:
        async with running(rig.post):
            (await rig.line(0)).say(HELLO, Fault(text="nope.py: no such file", code=126))
    assert failure.value.code == 126 and not rig.post.has_served


@pytest.mark.asyncio
async def test_a_fault_later_is_only_told(until: Until) -> None:
    rig = Rig(until)
    async with running(rig.post):
        line = await rig.serving()
        line.say(Fault(text="odd", code=2), exited(3), exited(4, "n1.1"), Drained())
        await rig.asked(0, Finish)
        line.cut()
    assert Fault(text="odd", code=2) in rig.notes.reports


@pytest.mark.asyncio
async def test_after_a_cut_it_says_what_it_has_and_passes_each_report_on_once(until: Until, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    rig = Rig(until, sink=Sink(tmp_path, ["n1.0", "n1.1"]))
    async with running(rig.post):
        line = await rig.serving()
        line.say(Chunk(file="logs/n1.0.log", at=0, data="abc"), b'{"op":"exited","n":3,"na')
        line.cut("Connection reset by peer")
        again = await rig.line(1)
        again.say(HELLO)
        assert await rig.asked(1, Attach) == Attach(run="ab", host="n1", seen=2, sizes={"logs/n1.0.log": 3})
        assert not rig.post.is_connected
        again.say(HELLO, READY, started(1), started(2, "n1.1"), exited(3), exited(3), exited(4, "n1.1"))
        again.say(Chunk(file="logs/n1.0.log", at=3, data="de"), Drained())
        await rig.asked(1, Finish)
        again.cut()
    numbers = [getattr(report, "n", 0) for report in rig.notes.reports]
    assert numbers == [0, 1, 2, 0, 3, 4]
    assert rig.notes.events == [("connected",), ("cut", "Connection reset by peer"), ("connected",)]
    assert (tmp_path / "logs" / "n1.0.log").read_text() == "abcde"


@pytest.mark.asyncio
async def test_what_was_printed_last_is_fetched_though_all_workers_are_over(until: Until) -> None:
    rig = Rig(until)
    async with running(rig.post):
        line = await rig.serving()
        line.say(exited(3), exited(4, "n1.1"))
        line.cut()
        (await rig.line(1)).say(HELLO)
        assert (await rig.asked(1, Attach)).seen == 4
        rig.lines[1].say(READY, Drained())
        await rig.asked(1, Finish)
        rig.lines[1].cut()
    assert not rig.told("lost")


@pytest.mark.asyncio
async def test_a_new_agent_is_told_what_the_launcher_has_of_the_one_before(until: Until, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    policy = RestartPolicy(first=0.002)
    rig = Rig(until, replace(START, restart=policy), sink=Sink(tmp_path, ["n1.0", "n1.1"]))
    async with running(rig.post):
        line = await rig.serving()
        assert (await rig.asked(0, Start)).sizes == {}
        line.say(Chunk(file="logs/n1.0.log", at=0, data="abc"))
        line.cut()
        (await rig.line(1)).say(HELLO, GONE)
        (await rig.line(2)).say(HELLO, READY)
        assert (await rig.asked(2, Start)).sizes == {"logs/n1.0.log": 3}
        rig.post.end(Kill(), 0.0)


@pytest.mark.asyncio
async def test_an_agent_that_is_gone_with_nothing_left_to_do_is_not_revived(until: Until) -> None:
    rig = Rig(until)
    async with running(rig.post):
        line = await rig.serving()
        line.say(exited(3), exited(4, "n1.1"))
        line.cut()
        (await rig.line(1)).say(HELLO, GONE)
    assert len(rig.lines) == 2 and not rig.told("lost")


@pytest.mark.asyncio
async def test_where_the_agent_is_gone_the_workers_left_start_again(until: Until) -> None:
    rig = Rig(until, replace(START, restart=RestartPolicy(first=0.002, most=2)))
    async with running(rig.post):
        line = await rig.serving()
        line.say(started(3, "n1.1", attempt=1), exited(4))
        line.cut()
        (await rig.line(1)).say(HELLO, GONE)
        (await rig.line(2)).say(HELLO)
        anew: Start = await rig.asked(2, Start)
        assert anew.workers == [WorkerOrder(name="n1.1", slot=1, attempt=2)]
        rig.lines[2].say(READY, started(1, "n1.1", attempt=2))  # a new agent counts from 1 again
        await until(lambda: rig.notes.reports[-1] == started(1, "n1.1", attempt=2))
        rig.lines[2].cut()
        (await rig.line(3)).say(HELLO, GONE)
        (await rig.line(4)).say(HELLO, READY, started(1, "n1.1", attempt=3))
        rig.lines[4].cut()
        (await rig.line(5)).say(HELLO, GONE)  # twice in a row was the most
    assert rig.told("lost") == [("lost", ["n1.1"], 0.002), ("lost", ["n1.1"], 0.004), ("lost", ["n1.1"], None)]


@pytest.mark.asyncio
async def test_healthy_time_begins_a_new_row(until: Until) -> None:
    rig = Rig(until, replace(START, restart=RestartPolicy(first=0.0, most=1, healthy=0.0)))
    async with running(rig.post):
        await rig.serving()
        for turn in range(0, 6, 2):
            rig.lines[turn].cut()
            (await rig.line(turn + 1)).say(HELLO, GONE)
            (await rig.line(turn + 2)).say(HELLO, READY)
        rig.post.end(Kill(), 0.0)
    assert [wait for _, _, wait in rig.told("lost")] == [0.0, 0.0, 0.0, None]


@pytest.mark.asyncio
async def test_without_restarts_the_workers_are_lost(until: Until) -> None:
    rig = Rig(until, replace(START, restart=RestartPolicy(on_failure="continue")))
    async with running(rig.post):
        line = await rig.serving()
        line.cut()
        (await rig.line(1)).say(HELLO, GONE)
    assert rig.told("lost") == [("lost", ["n1.0", "n1.1"], None)]


@pytest.mark.asyncio
async def test_a_returning_launcher_asks_for_the_agent_first(until: Until) -> None:
    rig = Rig(until, returning=True)
    async with running(rig.post):
        (await rig.line(0)).say(HELLO)
        assert await rig.asked(0, Attach) == Attach(run="ab", host="n1", seen=0)
        joined = started(3, "n1.5", attempt=1)  # of a host file that was read again
        rig.lines[0].say(HELLO, READY, started(1), started(2, "n1.1"), joined, started(4, "n2.0"), exited(5))
        rig.lines[0].say(exited(6, "n1.1"), exited(7, "n1.5"), Drained())
        await rig.asked(0, Finish)
        rig.lines[0].cut()
    assert rig.post.names == ["n1.0", "n1.1", "n1.5"]
    assert [getattr(report, "n", 0) for report in rig.notes.reports] == [0, 1, 2, 3, 5, 6, 7]  # n2.0 is not its own


@pytest.mark.asyncio
async def test_workers_of_which_a_found_agent_never_heard_hold_nobody(until: Until) -> None:
    rig = Rig(until, returning=True)
    async with running(rig.post):
        (await rig.line(0)).say(HELLO, READY, started(1), exited(2), Drained())
        await rig.asked(0, Finish)
        rig.lines[0].cut()
    assert rig.notes.reports[-1] == CalledOff(n=3, name="n1.1", attempt=0)


# Hosts that cannot be reached ----------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_an_unreachable_host_is_dialled_again_until_it_is_left(until: Until) -> None:
    rig = Rig(until)
    rig.unreachable = OSError("No route to host")
    async with running(rig.post) as task:
        await rig.line(3)
        task.cancel()
    assert rig.notes.events[:2] == [("cut", "No route to host")] * 2
    assert rig.post.hello is None and not rig.told("lost")


@pytest.mark.asyncio
async def test_a_host_that_says_no_hello_is_not_waited_for_for_ever(
    until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(post_module, "HELLO_TIMEOUT", 0.1)
    rig = Rig(until)
    async with running(rig.post) as task:
        (await rig.line(0)).say(b"Last login: never\n")
        await rig.line(1)
        task.cancel()
    assert rig.notes.events[:2] == [("said", "Last login: never"), ("cut", "no answer within 0.1 s")]
    assert not rig.lines[0].is_open


@pytest.mark.asyncio
async def test_only_so_many_hosts_are_dialled_at_a_time(until: Until) -> None:
    gate = asyncio.Semaphore(1)
    first, second = Rig(until, gate=gate), Rig(until, gate=gate)
    async with running(first.post) as one, running(second.post) as other:
        line = await first.line(0)
        await asyncio.sleep(0.01)
        assert not second.lines  # not even begun
        line.say(HELLO)
        await second.line(0)
        one.cancel()
        other.cancel()


@pytest.mark.asyncio
async def test_a_host_away_for_longer_than_its_lease_is_written_off_but_still_dialled(until: Until) -> None:
    rig = Rig(until, replace(START, lease=0.01, restart=RestartPolicy(first=0.0)))
    async with running(rig.post):
        line = await rig.serving()
        rig.unreachable = OSError("down")
        line.cut()
        await until(lambda: rig.post.is_written_off)
        assert rig.told("lost") == [("lost", ["n1.0", "n1.1"], None)]
        rig.unreachable = None
        number = len(rig.lines)
        (await rig.line(number)).say(HELLO, GONE)
        (await rig.line(number + 1)).say(HELLO, READY, started(1, attempt=1), started(2, "n1.1", attempt=1))
        await until(lambda: not rig.post.is_written_off)
        rig.post.end(Kill(), 0.0)
    assert rig.told("lost")[1] == ("lost", ["n1.0", "n1.1"], 0.0)


@pytest.mark.asyncio
async def test_a_run_that_was_left_alone_on_purpose_is_never_written_off(until: Until) -> None:
    rig = Rig(until, replace(START, lease=-1.0), returning=True)
    rig.unreachable = OSError("down")
    async with running(rig.post) as task:
        await rig.line(5)
        task.cancel()
    assert not rig.post.is_written_off


# Ends ----------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_stop_reaches_a_host_that_is_there(until: Until) -> None:
    rig = Rig(until)
    async with running(rig.post):
        line = await rig.serving()
        rig.post.end(Stop(grace=9.0), 9.0)
        assert line.orders[-1] == Stop(grace=9.0)
        line.say(exited(3, by="launcher"), exited(4, "n1.1", by="launcher"), Drained())
        await rig.asked(0, Finish)
        line.cut()
    assert not rig.told("lost") and len(rig.lines) == 1


@pytest.mark.asyncio
async def test_a_stop_while_the_agent_gets_ready_is_told_then(until: Until) -> None:
    rig = Rig(until)
    async with running(rig.post):
        (await rig.line(0)).say(HELLO)
        await rig.asked(0, Start)
        rig.post.end(Stop(grace=9.0), 9.0)
        assert len(rig.lines[0].orders) == 1
        rig.lines[0].say(READY)
        await rig.asked(0, Stop)
        rig.lines[0].say(*(CalledOff(n=n + 1, name=f"n1.{n}", attempt=0) for n in range(2)), Drained())
        await rig.asked(0, Finish)
        rig.lines[0].cut()
    assert not rig.told("lost")


@pytest.mark.asyncio
async def test_a_stop_while_it_is_cut_off_is_told_when_it_is_back(until: Until) -> None:
    rig = Rig(until)
    async with running(rig.post):
        line = await rig.serving()
        line.cut()
        await rig.line(1)
        rig.post.end(Stop(grace=9.0), 9.0)
        rig.lines[1].say(HELLO, READY)
        await rig.asked(1, Stop)
        rig.lines[1].say(exited(3, by="launcher"), exited(4, "n1.1", by="launcher"), Drained())
        await rig.asked(1, Finish)
        rig.lines[1].cut()
    assert [order.op for order in rig.lines[1].orders] == ["attach", "stop", "finish"]


@pytest.mark.asyncio
@pytest.mark.parametrize("reached", ["unreachable", "no hello", "no report"])
async def test_a_host_that_does_not_answer_delays_a_stop_by_so_much_only(until: Until, reached: str) -> None:
    rig = Rig(until)
    began = time.monotonic()
    async with running(rig.post):
        line = await rig.serving()
        if reached != "no report":
            rig.unreachable = OSError("down") if reached == "unreachable" else None
            line.cut()
            await rig.line(1)
        rig.post.end(Stop(grace=0.05), 0.05)
    assert 0.09 < time.monotonic() - began < 2
    assert rig.told("lost") == [("lost", ["n1.0", "n1.1"], None)]
    assert not rig.lines[-1].is_open or reached == "unreachable"


@pytest.mark.asyncio
@pytest.mark.parametrize("reached", [True, False])
async def test_a_host_where_nothing_has_begun_is_left_at_once(until: Until, reached: bool) -> None:
    rig = Rig(until)
    rig.unreachable = None if reached else OSError("down")
    began = time.monotonic()
    async with running(rig.post):
        await rig.line(0)
        await until(lambda: reached or rig.told("cut"))
        rig.post.end(Stop(grace=60.0), 60.0)
    assert time.monotonic() - began < 2
    assert rig.told("lost") == [("lost", ["n1.0", "n1.1"], None)]


@pytest.mark.asyncio
async def test_a_stop_from_within_a_report_is_not_slept_over(until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post_module, "FIRST_PAUSE", 60.0)
    rig = Rig(until, replace(START, restart=RestartPolicy(first=60.0)))
    rig.notes.on_lost = lambda: rig.post.end(Stop(grace=0.0), 0.0)
    async with running(rig.post):
        line = await rig.serving()
        monkeypatch.setattr(post_module, "FIRST_PAUSE", 0.001)
        line.cut()
        (await rig.line(1)).say(HELLO, GONE)
    assert rig.told("lost") == [("lost", ["n1.0", "n1.1"], 60.0), ("lost", ["n1.0", "n1.1"], None)]


@pytest.mark.asyncio
async def test_a_stopped_host_whose_agent_is_gone_is_done(until: Until) -> None:
    rig = Rig(until)
    async with running(rig.post):
        line = await rig.serving()
        rig.post.end(Stop(grace=9.0), 9.0)
        line.cut()
        (await rig.line(1)).say(HELLO, GONE)
    assert rig.told("lost") == [("lost", ["n1.0", "n1.1"], None)]


@pytest.mark.asyncio
async def test_an_agent_that_does_not_end_is_not_waited_for(until: Until) -> None:
    rig = Rig(until)
    async with running(rig.post):
        line = await rig.serving()
        line.say(exited(3), exited(4, "n1.1"), Drained())
        await rig.asked(0, Finish)
    assert not line.is_open


# Hosts that grow and shrink ------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_workers_are_added_and_dropped(until: Until, tmp_path: Path) -> None:
    rig = Rig(until, sink=Sink(tmp_path, []))
    (tmp_path / "logs").mkdir()
    more = WorkerOrder(name="n1.2", slot=2, attempt=1)
    async with running(rig.post):
        line = await rig.serving()
        rig.post.add([more])
        rig.post.drop(["n1.0"], 3.0)
        assert line.orders[1:] == [Add(workers=[more]), Stop(grace=3.0, names=["n1.0"])]
        line.say(exited(3, by="launcher"), exited(4, "n1.1"), Drained(), started(5, "n1.2", attempt=1))
        line.say(Chunk(file="logs/n1.2.log", at=0, data="hi"), exited(6, "n1.2", attempt=1), Drained())
        await rig.asked(0, Finish)
        line.cut()
    assert line.orders.count(Add(workers=[more])) == 1  # the first Drained was said before it was heard
    assert (tmp_path / "logs" / "n1.2.log").read_text() == "hi"


@pytest.mark.asyncio
async def test_what_was_asked_during_a_cut_is_told_afterwards(until: Until) -> None:
    rig = Rig(until)
    more = WorkerOrder(name="n1.2", slot=2, attempt=1)
    async with running(rig.post):
        line = await rig.serving()
        line.cut()
        await rig.line(1)
        rig.post.add([more])
        rig.post.drop(["n1.0"], 3.0)
        rig.lines[1].say(HELLO, READY)
        assert await rig.asked(1, Add) == Add(workers=[more])
        assert await rig.asked(1, Stop) == Stop(grace=3.0, names=["n1.0"])
        rig.lines[1].say(started(3, "n1.2"), exited(4), exited(5, "n1.1"), exited(6, "n1.2"), Drained())
        await rig.asked(1, Finish)
        rig.lines[1].cut()


@pytest.mark.asyncio
async def test_an_order_that_a_cut_has_swallowed_is_given_again(until: Until) -> None:
    rig = Rig(until)
    more = WorkerOrder(name="n1.2", slot=2, attempt=1)
    async with running(rig.post):
        line = await rig.serving()
        rig.post.add([more])
        line.cut()
        (await rig.line(1)).say(HELLO, READY, exited(3), exited(4, "n1.1"), Drained())
        assert await rig.asked(1, Add) == Add(workers=[more])
        rig.lines[1].say(started(5, "n1.2", attempt=1), exited(6, "n1.2", attempt=1), Drained())
        await rig.asked(1, Finish)
        rig.lines[1].cut()


@pytest.mark.asyncio
async def test_a_worker_added_while_the_agent_leaves_gets_another_agent(until: Until) -> None:
    rig = Rig(until)
    async with running(rig.post):
        line = await rig.serving()
        line.say(exited(3), exited(4, "n1.1"), Drained())
        await rig.asked(0, Finish)
        rig.post.add([WorkerOrder(name="n1.2", slot=2, attempt=1)])
        line.cut()
        (await rig.line(1)).say(HELLO)
        anew: Start = await rig.asked(1, Start)
        assert [order.name for order in anew.workers] == ["n1.2"]
        rig.lines[1].say(READY, started(1, "n1.2", attempt=1), exited(2, "n1.2"), Drained())
        await rig.asked(1, Finish)
        rig.lines[1].cut()


@pytest.mark.asyncio
async def test_a_dropped_worker_does_not_return_with_a_new_agent(until: Until) -> None:
    rig = Rig(until, replace(START, restart=RestartPolicy(first=0.0)))
    async with running(rig.post):
        line = await rig.serving()
        rig.post.drop(["n1.0"], 3.0)
        line.cut()
        (await rig.line(1)).say(HELLO, GONE)
        (await rig.line(2)).say(HELLO)
        anew: Start = await rig.asked(2, Start)
        assert [order.name for order in anew.workers] == ["n1.1"]
        rig.post.end(Kill(), 0.0)
    assert rig.told("lost")[0] == ("lost", ["n1.1"], 0.0)


@pytest.mark.asyncio
async def test_addresses_are_passed_on_too(until: Until) -> None:
    rig = Rig(until)
    async with running(rig.post) as task:
        line = await rig.serving()
        line.say(Located(n=3, entry={"name": "n1.0"}))
        await until(lambda: rig.notes.reports[-1] == Located(n=3, entry={"name": "n1.0"}))
        task.cancel()
