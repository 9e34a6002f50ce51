from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.workers.launch import launcher as launcher_module
from dagrad_bus.workers.launch import post as post_module
from dagrad_bus.workers.launch.berths import Reach, local_berth
from dagrad_bus.workers.launch.brief import Berth, Launch
from dagrad_bus.workers.launch.command import CommandNotFound
from dagrad_bus.workers.launch.environment import common_environment
from dagrad_bus.workers.launch.folder import RunFolder, create
from dagrad_bus.workers.launch.launcher import Launcher, run_launch
from dagrad_bus.workers.launch.orders import (
    Add,
    Addresses,
    Attach,
    CalledOff,
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
    Signal,
    Start,
    Started,
    Stop,
    WorkerOrder,
    encode,
    parse_order,
)
from dagrad_bus.workers.launch.outcome import Outcome, Worker
from dagrad_bus.workers.launch.pipes import Pipe
from dagrad_bus.workers.launch.quarters import BASE_NAME

Until = Callable[[Callable[[], object]], Awaitable[None]]
HELLO = Hello(pid=9, python="3.11", version="0.1", wire=1)
READY = Ready(folder="/f", seconds=0.1)
GONE = Fault(text="none here", gone=True)


@dataclass
class Notebook:
    """A watcher that keeps what it is told."""

    lines: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    notes: list[str] = field(default_factory=list[str])
    steps: dict[str, int] = field(default_factory=dict[str, int])
    states: dict[str, str] = field(default_factory=dict[str, str])
    on_line: Callable[[], None] = lambda: None

    def show_line(self, name: str, text: str) -> None:
        self.lines.append((name, text))
        self.on_line()

    def show_note(self, text: str) -> None:
        self.notes.append(text)

    def show_workers(self, workers: Sequence[Worker], *, final: bool) -> None:
        self.steps = {worker.name: worker.record.step for worker in workers}
        self.states = {worker.name: worker.state for worker in workers}


class Host:
    """A host whose agent is the test."""

    def __init__(self, label: str, slots: int, *, is_local: bool = False) -> None:
        self.label = label
        self.names = [f"{label}.{slot}" for slot in range(slots)]
        self.orders: list[Order] = []
        """Over all connections."""
        self.dials = 0
        self.is_down = False
        self.is_open = False
        self._n = 0
        self._lines: asyncio.Queue[bytes] = asyncio.Queue()
        self.berth = self.berth_of(*range(slots), is_local=is_local)

    def berth_of(self, *slots: int, is_local: bool = False) -> Berth:
        workers = tuple(WorkerOrder(name=f"{self.label}.{slot}", slot=slot) for slot in slots)
        return Berth(label=self.label, workers=workers, dial=self._dial, is_local=is_local)

    @asynccontextmanager
    async def _dial(self) -> AsyncGenerator[Pipe]:
        self.dials += 1
        if self.is_down:
            raise OSError("No route to host")
        self._lines = asyncio.Queue()
        self.is_open = True
        try:
            yield self
        finally:
            self.is_open = False

    def write(self, line: bytes) -> None:
        self.orders.append(parse_order(line))
        if isinstance(self.orders[-1], Finish):
            self.cut()

    async def read(self) -> bytes:
        return await self._lines.get()

    def describe_end(self) -> str:
        return "banner\nreset by peer"

    def cut(self) -> None:
        self._lines.put_nowait(b"")

    def say(self, *reports: Report) -> None:
        """Say something; what is counted gets the next number."""
        for report in reports:
            if isinstance(report, Started | Exited | CalledOff | Located):
                self._n += 1
                report = replace(report, n=self._n)
            elif isinstance(report, Hello | Fault):
                self._n = 0
            self._lines.put_nowait(encode(report))

    def start(self, attempt: int = 0) -> None:
        self.say(READY, *(started(name, attempt) for name in self.names))

    def exit(self, *codes: int, **how: Any) -> None:
        """End its workers, first ones first; all of them: say that nothing is left."""
        self.say(*(exited(name, code=code, **how) for name, code in zip(self.names, codes, strict=False)))
        if len(codes) == len(self.names):
            self.say(Drained())

    def got(self, kind: type[Order]) -> list[Any]:
        return [order for order in self.orders if isinstance(order, kind)]


def started(name: str, attempt: int = 0) -> Started:
    return Started(name=name, pid=100, attempt=attempt, time=time.time())


def exited(name: str, **how: Any) -> Exited:
    return replace(Exited(name=name, pid=100, attempt=0, time=time.time()), **how)


class Rig:
    """A launch over hosts that the test plays."""

    def __init__(self, path: Path, until: Until, *hosts: Host, **options: Any) -> None:
        names = [name for host in hosts for name in host.names]
        self.folder = create(path / "run", run="r", names=names, facts={})
        start = Start(run="r", host="", command=["train.py"], cwd="/", grace=0.05, lease=options.pop("lease", 0.0))
        start = replace(start, restart=options.pop("restart", RestartPolicy(first=0.001)))
        berths = [host.berth for host in hosts]
        self.launch = Launch(folder=self.folder, berths=berths, start=start, **options)
        self.notebook = Notebook()
        self.hosts = hosts
        self._outcome: Outcome | None = None
        self.until = until

    @asynccontextmanager
    async def running(self, *, greet: bool = True) -> AsyncGenerator[None]:
        """Run beside the block, and wait for the end; all hosts have started their workers, unless told otherwise."""
        try:
            async with asyncio.timeout(8), asyncio.TaskGroup() as group:
                task = group.create_task(Launcher(self.launch, self.notebook).run())
                if greet:
                    await self.greet(*self.hosts)
                yield
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        self._outcome = task.result()

    async def greet(self, *hosts: Host) -> None:
        for host in hosts:
            await self.open(host)
            host.say(HELLO)
            host.start()
            await self.settled(host)

    async def open(self, host: Host) -> None:
        await self.until(lambda: host.is_open)

    async def settled(self, host: Host) -> None:
        """Wait until all that was said so far has been taken."""
        await self.until(lambda: host._lines.empty())
        await asyncio.sleep(0)

    @property
    def outcome(self) -> Outcome:
        assert self._outcome is not None
        return self._outcome

    def states(self) -> dict[str, str]:
        return {one["name"]: one["state"] for one in self.outcome.describe_exits()}  # type: ignore[misc]  # JSON

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder.path / "events.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FIRST_PAUSE": 0.001, "LONGEST_PAUSE": 0.01, "FAREWELL": 0.05}.items():
        monkeypatch.setattr(post_module, name, value)
    monkeypatch.setattr(launcher_module, "POLL", 0.005)


@pytest.fixture
def one() -> Host:
    return Host("n1", 2)


@pytest.fixture
def other() -> Host:
    return Host("n2", 1)


# Ends by themselves --------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_run_over_two_hosts_ends_with_the_last_worker(
    tmp_path: Path, until: Until, one: Host, other: Host
) -> None:
    rig = Rig(tmp_path, until, one, other)
    async with rig.running():
        one.exit(0, 0)
        await until(lambda: not one.is_open)
        other.exit(0)
    assert (rig.outcome.exit_code, rig.outcome.failures, rig.notebook.notes) == (0, [], [])
    assert rig.states() == dict.fromkeys(["n1.0", "n1.1", "n2.0"], "done")
    assert [type(order) for order in one.orders] == [Start, Finish]
    start = one.got(Start)[0]
    assert (start.host, start.folder, [order.name for order in start.workers]) == ("n1", "", ["n1.0", "n1.1"])
    assert [event["event"] for event in rig.events()].count("exited") == 3


@pytest.mark.asyncio
async def test_each_host_is_told_its_own(tmp_path: Path, until: Until, other: Host) -> None:
    here = Host("local", 1, is_local=True)
    other.berth = replace(other.berth, cwd="/data", advertise="10.0.0.2")
    rig = Rig(tmp_path, until, here, other)
    async with rig.running():
        here.exit(0)
        other.exit(0)
    first, second = here.got(Start)[0], other.got(Start)[0]
    assert (first.folder, first.cwd, first.advertise) == (str(rig.folder.path), "/", "")
    assert (second.folder, second.cwd, second.advertise) == ("", "/data", "10.0.0.2")


@pytest.mark.asyncio
async def test_the_first_of_two_failures_gives_the_code(tmp_path: Path, until: Until, one: Host, other: Host) -> None:
    rig = Rig(tmp_path, until, one, other)
    async with rig.running():
        other.exit(7, why="3 restarts in a row")
        await until(lambda: not other.is_open)
        one.exit(3, 0)
    assert rig.outcome.exit_code == 7
    assert rig.notebook.notes == [
        "n2.0 failed: exit 7 (3 restarts in a row); 2 still running", "n1.0 failed: exit 3; 1 still running",
    ]  # fmt: skip


@pytest.mark.asyncio
async def test_a_worker_that_starts_again_is_shown_so_and_costs_nothing(
    tmp_path: Path, until: Until, other: Host
) -> None:
    rig = Rig(tmp_path, until, other)
    async with rig.running():
        other.say(exited("n2.0", code=1, wait=1.0))
        await until(lambda: rig.notebook.states["n2.0"] == "restarting")
        other.say(started("n2.0", 1))
        await until(lambda: rig.notebook.states["n2.0"] == "starting")
        other.say(exited("n2.0", code=0, attempt=1), Drained())
    assert rig.outcome.exit_code == 0 and rig.outcome.describe_exits()[0]["attempt"] == 1


@pytest.mark.asyncio
async def test_with_too_few_workers_left_it_is_given_up(tmp_path: Path, until: Until, one: Host, other: Host) -> None:
    rig = Rig(tmp_path, until, one, other, min_workers=2)
    async with rig.running():
        one.exit(5)
        await rig.settled(one)
        assert not one.got(Stop)
        other.exit(6)
        await until(lambda: one.got(Stop))
        one.say(exited("n1.1", signal=15, by="launcher"), Drained())
    assert (rig.outcome.exit_code, rig.outcome.aborted) == (5, "1 workers are left, fewer than 2")
    assert rig.states() == {"n1.0": "exit 5", "n1.1": "stopped", "n2.0": "exit 6"}


@pytest.mark.asyncio
async def test_a_worker_that_is_done_counts_as_one_that_is_there(tmp_path: Path, until: Until, one: Host) -> None:
    rig = Rig(tmp_path, until, one, min_workers=2)
    async with rig.running():
        one.say(exited("n1.0", code=0))
        one.say(exited("n1.1", code=1), Drained())
    assert rig.outcome.aborted == "" and rig.outcome.exit_code == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(("least", "code"), [(1, 0), (2, 9)])
async def test_enough_successes_are_a_success(tmp_path: Path, until: Until, one: Host, least: int, code: int) -> None:
    rig = Rig(tmp_path, until, one, min_success=least)
    async with rig.running():
        one.exit(9, 0)
    assert rig.outcome.exit_code == code


@pytest.mark.asyncio
async def test_where_asked_for_the_first_failure_ends_it(tmp_path: Path, until: Until, one: Host, other: Host) -> None:
    rig = Rig(tmp_path, until, one, other, abort=True)
    async with rig.running():
        one.exit(4)
        await until(lambda: one.got(Stop) and other.got(Stop))
        one.say(exited("n1.1", signal=9, by="launcher"), Drained())
        other.say(exited("n2.0", code=1, by="launcher"), Drained())
    assert (rig.outcome.exit_code, rig.outcome.aborted) == (4, "n1.0 failed")
    assert len(one.got(Stop)) == 1


# Hosts that cannot be reached, or begin -------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_without_one_of_its_hosts_it_does_not_begin(tmp_path: Path, until: Until, one: Host, other: Host) -> None:
    rig = Rig(tmp_path, until, one, other)
    other.is_down = True
    async with rig.running(greet=False):
        pass
    assert (rig.outcome.exit_code, rig.outcome.unreachable) == (3, True)
    assert rig.notebook.notes[0] == "n2: cannot be reached: No route to host"
    assert rig.notebook.notes[1].startswith("given up: cannot reach n2; --min-workers N starts without")
    assert not one.got(Start) and rig.outcome.failures == []


@pytest.mark.asyncio
async def test_those_that_began_already_are_stopped(tmp_path: Path, until: Until, one: Host, other: Host) -> None:
    rig = Rig(tmp_path, until, one, other)
    async with rig.running(greet=False):
        await rig.greet(one)
        await rig.open(other)
        other.cut()
        await until(lambda: one.got(Stop))
        one.exit(143, 143, by="launcher")
    assert rig.outcome.exit_code == 3
    assert "n2: cannot be reached: reset by peer" in rig.notebook.notes


@pytest.mark.asyncio
async def test_with_fewer_workers_allowed_it_begins_and_ends_without_the_host(
    tmp_path: Path, until: Until, one: Host, other: Host
) -> None:
    rig = Rig(tmp_path, until, one, other, min_workers=2)
    other.is_down = True
    async with rig.running(greet=False):
        await rig.greet(one)
        await until(lambda: other.dials > 2)
        one.exit(0, 0)
    assert rig.outcome.exit_code == 0 and not rig.outcome.aborted
    assert len([note for note in rig.notebook.notes if "cannot be reached" in note]) == 1


@pytest.mark.asyncio
async def test_a_host_that_comes_late_takes_part(tmp_path: Path, until: Until, one: Host, other: Host) -> None:
    rig = Rig(tmp_path, until, one, other, min_workers=2)
    other.is_down = True
    async with rig.running(greet=False):
        await rig.greet(one)
        await until(lambda: other.dials)
        other.is_down = False
        await rig.greet(other)
        one.exit(0, 0)
        await until(lambda: not one.is_open)
        other.exit(0)
    assert rig.states()["n2.0"] == "done"


@pytest.mark.asyncio
async def test_a_host_without_the_command_ends_it_and_nobody_is_left(
    tmp_path: Path, until: Until, one: Host, other: Host
) -> None:
    rig = Rig(tmp_path, until, one, other)
    with pytest.raises(CommandNotFound, match=r"n2: nope: command not found") as failure:
        async with rig.running(greet=False):
            await rig.greet(one)
            await rig.open(other)
            other.say(HELLO, Fault(text="nope: command not found", code=127))
            await until(lambda: one.got(Stop))
            assert one.is_open
            one.exit(143, 143, by="launcher")
    assert failure.value.code == 127 and one.got(Finish)


@pytest.mark.asyncio
async def test_a_host_that_comes_back_without_its_command_ends_nobody_else(
    tmp_path: Path, until: Until, one: Host, other: Host
) -> None:
    rig = Rig(tmp_path, until, one, other)
    async with rig.running():
        other.cut()
        await until(lambda: other.dials == 2 and other.is_open)
        other.say(HELLO, GONE)
        await until(lambda: other.dials == 3 and other.is_open)
        other.say(HELLO, Fault(text="/data: no such folder on this host", code=2))
        await until(lambda: not other.is_open)
        assert not one.got(Stop)
        one.exit(0, 0)
    assert rig.outcome.exit_code == 137 and rig.states()["n2.0"] == "lost"
    assert "n2: /data: no such folder on this host" in rig.notebook.notes


# Cuts and losses ------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_cut_is_shown_and_ends_nothing(tmp_path: Path, until: Until, other: Host) -> None:
    rig = Rig(tmp_path, until, other, lease=60.0)
    async with rig.running():
        other.is_down = True
        other.cut()
        await until(lambda: rig.notebook.states["n2.0"] == "cut off" and other.dials > 3)
        other.is_down = False
        await rig.open(other)
        other.say(HELLO, READY)
        await until(lambda: rig.notebook.states["n2.0"] == "starting")
        assert other.got(Attach)[0].seen == 1
        other._n = 1
        other.exit(0)
    assert rig.notebook.notes == [
        "n2: the connection has ended; its 1 workers go on, for 60 s at most without us (reset by peer)",
        "n2: reached again",
    ]
    assert [event["event"] for event in rig.events()].count("cut") == 1


@pytest.mark.asyncio
async def test_lost_workers_start_again_with_a_new_agent(tmp_path: Path, until: Until, one: Host) -> None:
    rig = Rig(tmp_path, until, one)
    async with rig.running():
        one.cut()
        await until(lambda: one.dials == 2 and one.is_open)
        one.say(HELLO, GONE)
        await until(lambda: one.dials == 3 and one.is_open)
        one.say(HELLO)
        await until(lambda: len(one.got(Start)) == 2)
        assert [order.attempt for order in one.got(Start)[1].workers] == [1, 1]
        one.start(attempt=1)
        one.exit(0, 0)
    assert rig.outcome.exit_code == 0
    assert rig.notebook.notes[-1] == "n1: its agent is gone, and 2 workers with it; they start again"


@pytest.mark.asyncio
async def test_lost_workers_that_stay_away_are_a_failure(tmp_path: Path, until: Until, one: Host, other: Host) -> None:
    rig = Rig(tmp_path, until, one, other, restart=RestartPolicy(on_failure="continue"))
    async with rig.running():
        one.say(Fault(text="the nursery has ended, and the workers with it"))
        one.cut()
        await until(lambda: one.dials == 2 and one.is_open)
        one.say(HELLO, GONE)
        await until(lambda: not one.is_open)
        other.exit(0)
    assert rig.outcome.exit_code == 137 and rig.states() == {"n1.0": "lost", "n1.1": "lost", "n2.0": "done"}
    assert rig.notebook.notes[0] == "n1: the nursery has ended, and the workers with it"


@pytest.mark.asyncio
async def test_a_host_that_stays_away_is_written_off_and_holds_nobody(
    tmp_path: Path, until: Until, one: Host, other: Host
) -> None:
    rig = Rig(tmp_path, until, one, other, lease=0.05)
    async with rig.running():
        one.is_down = True
        one.cut()
        await until(lambda: rig.notebook.states["n1.0"] == "lost")
        assert other.is_open
        other.exit(0)
    assert rig.outcome.exit_code == 137 and not rig.outcome.unreachable


@pytest.mark.asyncio
async def test_where_all_hosts_are_written_off_it_is_over(tmp_path: Path, until: Until, one: Host) -> None:
    rig = Rig(tmp_path, until, one, lease=0.05)
    async with rig.running():
        one.is_down = True
        one.cut()
    assert rig.states() == {"n1.0": "lost", "n1.1": "lost"} and rig.outcome.exit_code == 137


# Signals --------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
async def test_a_signal_stops_all_workers(
    tmp_path: Path, until: Until, one: Host, number: signal.Signals, code: int
) -> None:
    rig = Rig(tmp_path, until, one)
    before = {each: signal.getsignal(each) for each in launcher_module._HANDLED}
    async with rig.running():
        os.kill(os.getpid(), number)
        await until(lambda: one.got(Stop))
        one.exit(1, 0, by="launcher")
    assert (rig.outcome.exit_code, rig.outcome.failures) == (code, [])
    assert rig.states() == {"n1.0": "stopped", "n1.1": "done"}
    assert {each: signal.getsignal(each) for each in launcher_module._HANDLED} == before


@pytest.mark.asyncio
async def test_the_second_signal_kills(tmp_path: Path, until: Until, one: Host) -> None:
    rig = Rig(tmp_path, until, one)
    async with rig.running():
        os.kill(os.getpid(), signal.SIGINT)
        await until(lambda: one.got(Stop))
        os.kill(os.getpid(), signal.SIGINT)
        await until(lambda: one.got(Kill))
        one.exit(137, 137, by="launcher")
    assert rig.outcome.killed and rig.outcome.exit_code == 130


@pytest.mark.asyncio
async def test_workers_that_never_started_are_no_failures(tmp_path: Path, until: Until, one: Host) -> None:
    rig = Rig(tmp_path, until, one)
    async with rig.running(greet=False):
        await rig.open(one)
        one.say(HELLO)
        await until(lambda: one.got(Start))
        os.kill(os.getpid(), signal.SIGINT)
        await until(lambda: rig.notebook.notes)
        one.say(READY, *(CalledOff(name=name, attempt=0) for name in one.names), Drained())
    assert rig.outcome.exit_code == 130 and rig.states() == {"n1.0": "stopped", "n1.1": "stopped"}


@pytest.mark.asyncio
async def test_a_stop_does_not_wait_for_a_host_that_is_mute(tmp_path: Path, until: Until, one: Host) -> None:
    rig = Rig(tmp_path, until, one)
    began = time.monotonic()
    async with rig.running():
        os.kill(os.getpid(), signal.SIGTERM)
    assert time.monotonic() - began < 4 and rig.outcome.exit_code == 143


@pytest.mark.asyncio
async def test_user_signals_are_passed_on_and_nothing_else_happens(
    tmp_path: Path, until: Until, one: Host, other: Host
) -> None:
    rig = Rig(tmp_path, until, one, other, lease=60.0)
    async with rig.running():
        other.is_down = True
        other.cut()
        await until(lambda: rig.notebook.states["n2.0"] == "cut off")
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP):
            os.kill(os.getpid(), number)
        await until(lambda: len(rig.notebook.notes) == 4)
        assert one.got(Signal) == [Signal(number=signal.SIGUSR1), Signal(number=signal.SIGUSR2)]
        assert rig.notebook.notes[1] == "SIGUSR1 passed on to all workers but those of n2, out of reach"
        assert rig.notebook.notes[3].startswith("Ctrl-Z has no effect")
        other.is_down = False
        await until(lambda: other.is_open)
        other.say(HELLO, READY)
        other._n = 1
        one.exit(0, 0)
        other.exit(0)
    assert rig.outcome.exit_code == 0


@pytest.mark.asyncio
async def test_under_nohup_a_hangup_is_nothing(tmp_path: Path, until: Until, one: Host) -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        rig = Rig(tmp_path, until, one)
        async with rig.running():
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGUSR1)
            await until(lambda: rig.notebook.notes)
            one.exit(0, 0)
        assert rig.outcome.exit_code == 0 and not one.got(Stop)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


# Addresses and leases -------------------------------------------------------------------------------------------


def located(name: str, epoch: int = 1) -> Located:
    return Located(
        entry={"name": name, "pid": 1, "epoch": epoch, "inbox": "tcp://10.0.0.1:1", "beat": "tcp://10.0.0.1:2"}
    )


@pytest.mark.asyncio
async def test_hosts_are_told_of_each_others_workers(tmp_path: Path, until: Until, one: Host, other: Host) -> None:
    here = Host("local", 1, is_local=True)
    rig = Rig(tmp_path, until, one, other, here)
    async with rig.running():
        one.say(located("n1.0"), located("n2.0"))  # the second is not its own
        await until(lambda: other.got(Addresses))
        assert list(other.got(Addresses)[0].entries) == ["n1.0"]
        other.say(located("n2.0"))
        await until(lambda: one.got(Addresses))
        assert list(one.got(Addresses)[0].entries) == ["n2.0"]
        one.exit(0, 0)
        other.exit(0)
        here.exit(0)
    assert not here.got(Addresses)  # its workers read the folder
    assert sorted(path.name for path in (rig.folder.path / "peers").iterdir()) == ["n1.0.json", "n2.0.json"]


@pytest.mark.asyncio
async def test_while_it_lives_it_says_so(tmp_path: Path, until: Until, one: Host) -> None:
    rig = Rig(tmp_path, until, one, lease=0.06)
    async with rig.running():
        await until(lambda: len(one.got(Renew)) > 3)
        one.exit(0, 0)
    assert rig.outcome.exit_code == 0


# Hosts that come and go -----------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_host_file_that_is_read_again_adds_and_stops(
    tmp_path: Path, until: Until, one: Host, other: Host
) -> None:
    third = Host("n3", 1)
    wanted: list[Berth] = [one.berth_of(0, 2), third.berth]
    rig = Rig(tmp_path, until, one, other, reread=lambda: wanted)
    async with rig.running():
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: other.got(Stop) and one.got(Add))
        assert other.got(Stop)[0].names == ["n2.0"] and one.got(Stop)[0].names == ["n1.1"]
        assert [(order.name, order.attempt) for order in one.got(Add)[0].workers] == [("n1.2", 1)]
        assert rig.notebook.notes == ["host file read again: 2 workers added, 2 stopped"]
        other.exit(143, by="launcher")
        await rig.open(third)
        third.say(HELLO)
        await until(lambda: third.got(Start))
        assert third.got(Start)[0].workers[0].attempt == 1
        third.start(attempt=1)
        third.exit(0)
        one.say(exited("n1.1", code=1, by="launcher"), started("n1.2", 1), exited("n1.0", code=0))
        one.say(exited("n1.2", code=0, attempt=1), Drained())
    assert rig.outcome.exit_code == 0
    assert [worker.name for worker in rig.outcome.workers] == ["n1.0", "n1.1", "n2.0", "n1.2", "n3.0"]


@pytest.mark.asyncio
async def test_a_slot_that_was_gone_for_a_while_gets_its_worker_back(
    tmp_path: Path, until: Until, one: Host, other: Host
) -> None:
    wanted: list[Berth] = [other.berth]
    rig = Rig(tmp_path, until, one, other, reread=lambda: wanted)
    async with rig.running():
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: one.got(Stop))
        one.exit(143, 143, by="launcher")
        await until(lambda: not one.is_open)
        wanted.append(one.berth)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: one.is_open)
        one.say(HELLO)
        one.start(attempt=1)
        one.exit(0, 0)
        other.exit(0)
    assert rig.states() == {"n1.0": "done", "n1.1": "done", "n2.0": "done"}
    assert len(rig.outcome.workers) == 3 and isinstance(one.got(Start)[1], Start)


@pytest.mark.asyncio
async def test_a_mistake_in_the_file_changes_nothing(tmp_path: Path, until: Until, one: Host) -> None:
    def read() -> Sequence[Berth]:
        raise UsageError("hosts:3:1: no such key")

    rig = Rig(tmp_path, until, one, reread=read)
    async with rig.running():
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: rig.notebook.notes)
        one.exit(0, 0)
    assert rig.notebook.notes == ["the host file was not taken: hosts:3:1: no such key"]


@pytest.mark.asyncio
async def test_a_new_host_that_is_down_or_lacks_the_command_ends_nothing(
    tmp_path: Path, until: Until, one: Host
) -> None:
    down, bad = Host("n3", 1), Host("n4", 1)
    down.is_down = True
    rig = Rig(tmp_path, until, one, reread=lambda: [one.berth, down.berth, bad.berth])
    async with rig.running():
        os.kill(os.getpid(), signal.SIGHUP)
        await rig.open(bad)
        bad.say(HELLO, Fault(text="nope: command not found", code=127))
        await until(lambda: down.dials > 2 and not bad.is_open)
        assert not one.got(Stop)
        one.exit(0, 0)
    assert not rig.outcome.aborted and rig.states()["n4.0"] == "lost"
    assert {"n4: nope: command not found", "n3: cannot be reached: No route to host"} < set(rig.notebook.notes)


# Leaving and coming back ----------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_launcher_that_detaches_leaves_when_all_run(tmp_path: Path, until: Until) -> None:
    here = Host("local", 2, is_local=True)
    rig = Rig(tmp_path, until, here, detach=True, lease=-1.0)
    async with rig.running(greet=False):
        await rig.open(here)
        here.say(HELLO, READY, started("local.0"))
        await rig.settled(here)
        await asyncio.sleep(0.05)
        assert here.is_open
        here.say(started("local.1"))
    assert rig.outcome.left and rig.outcome.exit_code == 0
    assert [type(order) for order in here.orders] == [Start] and not here.is_open


@pytest.mark.asyncio
async def test_on_several_hosts_it_first_lets_them_meet(tmp_path: Path, until: Until, one: Host, other: Host) -> None:
    rig = Rig(tmp_path, until, one, other, detach=True, lease=-1.0)
    async with rig.running():
        one.say(located("n1.0"), exited("n1.1", code=1))
        await until(lambda: other.got(Addresses))
        await asyncio.sleep(0.1)
        assert one.is_open and other.is_open
        other.say(located("n2.0"))
    assert rig.outcome.left and list(one.got(Addresses)[0].entries) == ["n2.0"]


@pytest.mark.asyncio
async def test_workers_that_never_meet_are_left_all_the_same(
    tmp_path: Path, until: Until, one: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher_module, "MEETING", 0.05)
    other = Host("n2", 1)
    other.is_down = True
    rig = Rig(tmp_path, until, one, other, detach=True, lease=-1.0, min_workers=1)
    async with rig.running(greet=False):
        await rig.greet(one)
    assert rig.outcome.left


@pytest.mark.asyncio
async def test_one_that_came_back_to_a_detached_run_leaves_at_ctrl_c(tmp_path: Path, until: Until, one: Host) -> None:
    rig = Rig(tmp_path, until, one, returning=True, leave_on_interrupt=True, lease=-1.0)
    async with rig.running():
        os.kill(os.getpid(), signal.SIGINT)
    assert rig.outcome.left and [type(order) for order in one.orders] == [Attach]


@pytest.mark.asyncio
async def test_one_that_comes_to_stop_does_only_that(tmp_path: Path, until: Until, one: Host) -> None:
    rig = Rig(tmp_path, until, one, returning=True, stop_at_once=True, lease=-1.0)
    async with rig.running():
        await until(lambda: one.got(Stop))
        one.exit(0, 143, by="launcher")
    assert rig.outcome.exit_code == 143 and rig.states() == {"n1.0": "done", "n1.1": "stopped"}


@pytest.mark.asyncio
async def test_what_an_earlier_launcher_added_is_followed(tmp_path: Path, until: Until, other: Host) -> None:
    rig = Rig(tmp_path, until, other, returning=True)
    async with rig.running():
        other.say(started("n2.1", 1), exited("n2.1", code=0), exited("n2.0", code=0), Drained())
    assert rig.states() == {"n2.0": "done", "n2.1": "done"}


@pytest.mark.asyncio
async def test_one_that_finds_no_host_at_all_says_so(tmp_path: Path, until: Until, one: Host) -> None:
    rig = Rig(tmp_path, until, one, returning=True)
    one.is_down = True
    async with rig.running(greet=False):
        pass
    assert rig.outcome.exit_code == 3 and rig.outcome.describe_exits() == []


# Real workers on this host --------------------------------------------------------------------------------------

Run = Callable[..., tuple[Outcome, Notebook]]
JOIN = """
import json, os, pathlib, signal, sys, time
name, folder = os.environ["DAGRAD_NAME"], pathlib.Path(os.environ["DAGRAD_RUN_DIR"])
attempt = int(os.environ["DAGRAD_ATTEMPT"])
def join():
    ends = {"inbox": "tcp://127.0.0.1:1", "beat": "tcp://127.0.0.1:2"}
    (folder / "peers" / f".{name}").write_text(json.dumps({"name": name, "pid": os.getpid(), "epoch": 1, **ends}))
    (folder / "peers" / f".{name}").rename(folder / "peers" / f"{name}.json")
"""


@pytest.fixture(params=["fork", "spawn"])
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a script with some workers, forked or each an interpreter of its own."""
    monkeypatch.setattr(post_module, "FAREWELL", 5.0)

    def run(
        text: str, *, workers: int = 3, notebook: Notebook | None = None, **options: Any
    ) -> tuple[Outcome, Notebook]:
        (tmp_path / "train.py").write_text(JOIN + text)
        names = [f"local.{slot}" for slot in range(workers)]
        folder = create(tmp_path / "run", run="ab12ab12ab12ab12", names=names, facts={})
        notebook = notebook or Notebook()
        return run_launch(_local(folder, tmp_path, names, fork=request.param == "fork", **options), notebook), notebook

    return run


def _local(folder: RunFolder, cwd: Path, names: list[str], *, fork: bool, **options: Any) -> Launch:
    env = {name: value for name, value in os.environ.items() if not name.startswith("DAGRAD_")}
    env[BASE_NAME] = str(cwd / "a")
    policy = RestartPolicy(first=0.05, most=2)
    start = Start(
        run="ab12ab12ab12ab12", host="", key=folder.key.read_text().strip(), roster=names, command=["train.py"],
        cwd=str(cwd), fork=fork, preload=["none"], grace=5.0, restart=policy,
    )  # fmt: skip
    reach = Reach(folder=folder.path, env=common_environment(env, workers=len(names)))
    return Launch(folder=folder, berths=[local_berth(len(names), reach)], start=start, **options)


@pytest.mark.slow
def test_every_worker_knows_its_name_and_runs_in_its_own_session(run: Run) -> None:
    outcome, notebook = run("print(name, os.getsid(0) == os.getpid())")
    assert outcome.exit_code == 0
    assert sorted(notebook.lines) == [(f"local.{n}", f"local.{n} True") for n in range(3)]


@pytest.mark.slow
def test_a_crash_leaves_the_others_running_and_gives_the_code(run: Run) -> None:
    text = """
crashed = pathlib.Path("crashed")
if os.environ["DAGRAD_SLOT"] == "1":
    crashed.touch()
    sys.exit(7)
while not crashed.exists():
    time.sleep(0.01)
print("went on")
"""
    outcome, notebook = run(text)
    assert outcome.exit_code == 7
    assert [(ended.name, ended.text) for ended in outcome.failures] == [("local.1", "exit 7")]
    assert [text for _, text in notebook.lines] == ["went on"] * 2
    assert notebook.notes[-1].startswith("local.1 failed: exit 7 (it never published an address")


@pytest.mark.slow
def test_one_that_had_joined_is_started_again(run: Run) -> None:
    outcome, notebook = run("join()\nprint(attempt)\nsys.exit(0 if attempt == 2 else 5)", workers=1)
    assert outcome.exit_code == 0
    assert [text for _, text in notebook.lines] == ["0", "1", "2"]
    assert len([note for note in notebook.notes if note.startswith("local.0 failed: exit 5; starts again in")]) == 2


@pytest.mark.slow
def test_a_worker_killed_by_a_signal_gives_128_and_its_number(run: Run) -> None:
    outcome, _ = run("os.kill(os.getpid(), 9)", workers=1)
    assert outcome.exit_code == 137
    assert outcome.describe_exits()[0]["state"] == "SIGKILL"


@pytest.mark.slow
def test_output_comes_in_whole_lines_and_complete(run: Run) -> None:
    text = "for n in range(3000): sys.stdout.write(f'{n} '); sys.stdout.write('x' * 20 + chr(10))\nprint(end='tail')"
    _, notebook = run(text, workers=2)
    for name in ("local.0", "local.1"):
        seen = [line for worker, line in notebook.lines if worker == name]
        assert seen == [f"{n} {'x' * 20}" for n in range(3000)] + ["tail"]


@pytest.mark.slow
def test_journals_are_followed(run: Run) -> None:
    line = json.dumps({"event": "progress", "time": 1.0, "step": 41, "counters": {}})
    _, notebook = run(f"(folder / 'workers' / (name + '.jsonl')).write_text('{line}\\n')", workers=2)
    assert notebook.steps == {"local.0": 41, "local.1": 41}


@pytest.mark.slow
def test_a_worker_that_joined_by_itself_is_shown_and_holds_nobody(run: Run) -> None:
    lines = [{"event": "start", "time": 1.0}, {"event": "progress", "time": 2.0, "step": 5}]
    text = f"""
if name == "local.0":
    (folder / "workers" / "late.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in {lines!r}))
"""
    outcome, notebook = run(text, workers=2)
    assert outcome.exit_code == 0
    assert notebook.steps["late"] == 5
    assert notebook.notes == ["late joined the run"]
    assert [worker.name for worker in outcome.workers] == ["local.0", "local.1"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_real_workers_are_stopped(run: Run, number: signal.Signals, code: int) -> None:
    notebook = Notebook()
    notebook.on_line = lambda: os.kill(os.getpid(), number) if len(notebook.lines) == 3 else None
    outcome, _ = run("join(); print('up'); time.sleep(60)", notebook=notebook)
    assert (outcome.exit_code, outcome.stopped_by, outcome.failures) == (code, number, [])
    assert {ended["state"] for ended in outcome.describe_exits()} == {"stopped"}


@pytest.mark.slow
def test_real_workers_that_do_not_stop_are_killed(run: Run) -> None:
    notebook = Notebook()

    def interrupt() -> None:
        if len(notebook.lines) in {2, 4}:
            os.kill(os.getpid(), signal.SIGINT)

    notebook.on_line = interrupt
    text = "signal.signal(15, lambda *_: print('no'))\nprint('up')\nwhile True: time.sleep(9)"
    outcome, _ = run(text, workers=2, notebook=notebook)
    assert outcome.exit_code == 130
    assert outcome.killed
    assert {worker.exit.signal for worker in outcome.workers if worker.exit} == {9}


@pytest.mark.slow
def test_a_user_signal_reaches_the_workers(run: Run) -> None:
    notebook = Notebook()
    notebook.on_line = lambda: os.kill(os.getpid(), signal.SIGUSR1) if len(notebook.lines) == 2 else None
    text = "signal.signal(10, lambda *_: sys.exit(print('saved')))\nprint('up')\nwhile True: time.sleep(9)"
    outcome, _ = run(text, workers=2, notebook=notebook)
    assert outcome.exit_code == 0
    assert sorted(text for _, text in notebook.lines) == ["saved", "saved", "up", "up"]


@pytest.mark.slow
def test_a_command_that_is_not_there_is_one_error(run: Run, tmp_path: Path) -> None:
    with pytest.raises(CommandNotFound, match=r"local: gone\.py: no such file"):
        names = ["local.0"]
        folder = create(tmp_path / "run", run="ab12ab12ab12ab12", names=names, facts={})
        launch = _local(folder, tmp_path, names, fork=True)
        run_launch(replace(launch, start=replace(launch.start, command=["gone.py"])), Notebook())
