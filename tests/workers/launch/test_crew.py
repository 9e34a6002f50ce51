from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.errors import StartError, UsageError
from dagrad_bus.workers.launch.command import resolve
from dagrad_bus.workers.launch.crew import Crew, Job, News
from dagrad_bus.workers.launch.folder import RunFolder
from dagrad_bus.workers.launch.orders import CalledOff, Exited, Ready, RestartPolicy, Started, WorkerOrder

pytestmark = pytest.mark.slow
JOIN = 'echo "{}" > $DAGRAD_RUN_DIR/peers/.new; mv $DAGRAD_RUN_DIR/peers/.new $DAGRAD_RUN_DIR/peers/$DAGRAD_NAME.json; '
"""What a worker does once it has attached."""


@dataclass
class Told:
    """What a crew has told."""

    news: list[News] = field(default_factory=list[News])
    came: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self, news: News) -> None:
        self.news.append(news)
        self.came.set()

    def exits(self, name: str = "h.0") -> list[Exited]:
        return [one for one in self.news if isinstance(one, Exited) and one.name == name]

    def pids(self) -> list[int]:
        return [one.pid for one in self.news if isinstance(one, Started)]

    async def until(self, ready: Callable[[], object]) -> None:
        async with asyncio.timeout(8):
            while not ready():
                self.came.clear()
                await self.came.wait()


class Place:
    """A run folder in which crews work."""

    def __init__(self, root: Path) -> None:
        self.folder = RunFolder(root)
        for name in ("peers", "logs", "workers"):
            (root / name).mkdir()

    def job(self, script: str, **options: Any) -> Job:
        words = ["sh", "-c", script]
        env = {**os.environ, "DAGRAD_RUN_DIR": str(self.folder.path)}
        command = resolve(words, cwd=self.folder.path)
        return Job(folder=self.folder, command=command, cwd=self.folder.path, env=env, **options)

    @asynccontextmanager
    async def crew(self, script: str, count: int = 1, **options: Any) -> AsyncGenerator[tuple[Crew, Told]]:
        told = Told()
        async with Crew(self.job(script, **options), told) as crew:
            crew.start([WorkerOrder(name=f"h.{slot}", slot=slot) for slot in range(count)])
            yield crew, told

    def log(self, name: str = "h.0") -> str:
        path = self.folder.log(name)
        return path.read_text() if path.exists() else ""

    async def until_up(self, count: int) -> None:
        """Wait until workers have printed ``up``."""
        async with asyncio.timeout(8):
            while not all("up" in self.log(f"h.{n}") for n in range(count)):  # noqa: ASYNC110  # written by others
                await asyncio.sleep(0.01)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def files_of(pid: int) -> list[str]:
    return [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def quick(**options: Any) -> RestartPolicy:
    return RestartPolicy(**options, first=0.01, longest=0.02)


def test_workers_are_told_who_they_are_and_their_ends_are_told(place: Place) -> None:
    async def test() -> None:
        async with place.crew("echo $DAGRAD_NAME $DAGRAD_SLOT $DAGRAD_ATTEMPT; exit $DAGRAD_SLOT", 2) as (crew, told):
            assert not crew.is_over
            await told.until(lambda: crew.is_over)
        assert isinstance(told.news[0], Ready)
        assert [(end.code, end.by, end.wait) for end in told.exits("h.0") + told.exits("h.1")] == [
            (0, "itself", None),
            (1, "itself", None),
        ]
        assert told.exits("h.1")[0].why == "it never published an address, so it never joined the run"

    run(test())
    assert (place.log(), place.log("h.1")) == ("h.0 0 0\n", "h.1 1 0\n")


def test_who_had_joined_is_restarted_until_the_row_is_full(place: Place) -> None:
    async def test() -> None:
        async with place.crew(f"{JOIN} echo $DAGRAD_ATTEMPT; exit 7", policy=quick(most=2)) as (crew, told):
            await told.until(lambda: crew.is_over)
        ends = told.exits()
        assert [(end.attempt, end.code, end.wait is None, end.why) for end in ends] == [
            (0, 7, False, ""),
            (1, 7, False, ""),
            (2, 7, True, "2 restarts in a row"),
        ]

    run(test())
    assert place.log() == "0\n1\n2\n"


def test_an_address_of_an_earlier_process_is_no_sign_of_having_joined(place: Place) -> None:
    async def test() -> None:
        script = f"if [ $DAGRAD_ATTEMPT = 0 ]; then {JOIN} fi; exit 1"
        async with place.crew(script, policy=quick()) as (crew, told):
            await told.until(lambda: crew.is_over)
        assert [end.wait is None for end in told.exits()] == [False, True]

    run(test())


def test_stop_calls_a_restart_off_and_starts_nobody_any_more(place: Place) -> None:
    async def test() -> None:
        async with place.crew(f"{JOIN} exit 1", policy=RestartPolicy(first=60)) as (crew, told):
            await told.until(told.exits)
            assert not crew.is_over
            with pytest.raises(UsageError, match=r"h\.0 runs already"):
                crew.start([WorkerOrder(name="h.0", slot=0)])
            crew.stop(1)
            assert crew.is_over
            assert told.news[-1] == CalledOff(name="h.0", attempt=1)
            with pytest.raises(UsageError, match="no others are started"):
                crew.start([WorkerOrder(name="h.1", slot=1)])

    run(test())


def test_who_was_stopped_before_the_nursery_was_ready_never_starts(place: Place) -> None:
    async def test() -> None:
        async with place.crew("echo no", 2) as (crew, told):
            crew.stop(1, ["h.0"])
            await told.until(lambda: crew.is_over)
        assert told.news[0] == CalledOff(name="h.0", attempt=0)
        assert [one.name for one in told.news if isinstance(one, Started)] == ["h.1"]

    run(test())


def test_workers_are_stopped_by_name_each_with_its_own_grace(place: Place) -> None:
    script = "trap '[ $DAGRAD_SLOT = 1 ] || exit 3' TERM; echo up; while :; do sleep 0.02; done"

    async def test() -> None:
        async with place.crew(script, 3) as (crew, told):
            await told.until(lambda: len(told.pids()) == 3)
            await place.until_up(3)
            crew.stop(60, ["h.0"])
            crew.stop(0.2, ["h.1"], by="lease")
            await told.until(lambda: told.exits("h.0") and told.exits("h.1"))
            assert [(one.code, one.signal, one.by) for one in (*told.exits("h.0"), *told.exits("h.1"))] == [
                (3, None, "launcher"),
                (None, 9, "lease"),
            ]
            assert not told.exits("h.2")
            crew.start([WorkerOrder(name="h.0", slot=0, attempt=4)])  # its place is free
            await told.until(lambda: len(told.pids()) == 4)
            crew.kill()
            await told.until(lambda: crew.is_over)
        assert [(one.signal, one.attempt) for one in told.exits("h.0")][1:] == [(9, 4)]

    run(test())


def test_signals_are_passed_on_to_those_named(place: Place) -> None:
    script = "trap 'echo heard' USR1; echo up; for n in 1 2 3 4 5 6 7 8 9; do sleep 0.05; done"

    async def test() -> None:
        async with place.crew(script, 2) as (crew, told):
            await place.until_up(2)
            crew.signal(signal.SIGUSR1, ["h.1"])
            with pytest.raises(UsageError, match="signal 99"):
                crew.signal(99)
            await told.until(lambda: crew.is_over)

    run(test())
    assert (place.log(), place.log("h.1")) == ("up\n", "up\nheard\n")


def test_helpers_of_a_worker_are_spared_what_ends_who_is_not_prepared(place: Place) -> None:
    script = "sleep 60 & trap 'echo heard' USR1 HUP; echo up; wait; sleep 0.05; kill $!; wait $!; "
    script += "[ $? = 143 ] && echo spared"  # only SIGTERM has ended it

    async def test() -> None:
        async with place.crew(script, 2) as (crew, told):
            await place.until_up(2)
            crew.signal(signal.SIGUSR1, ["h.0"])
            crew.signal(signal.SIGHUP, ["h.1"])
            await told.until(lambda: crew.is_over)

    run(test())
    assert ["heard" in place.log(name) for name in ("h.0", "h.1")] == [True, True]
    assert ["spared" in place.log(name) for name in ("h.0", "h.1")] == [True, False]


def test_stderr_goes_to_a_file_of_its_own(place: Place) -> None:
    async def test() -> None:
        async with place.crew("echo out; echo err >&2", split=True) as (crew, told):
            await told.until(lambda: crew.is_over)

    run(test())
    assert (place.log(), place.folder.errors("h.0").read_text()) == ("out\n", "err\n")


def test_a_worker_without_steps_is_killed_and_restarted(place: Place) -> None:
    write = 'echo \'{"event": "start"}\' >> $DAGRAD_RUN_DIR/workers/$DAGRAD_NAME.jsonl; '
    script = f"{JOIN} [ $DAGRAD_ATTEMPT = 1 ] && exit 0; {write} sleep 60"

    async def test() -> None:
        async with place.crew(script, policy=quick(wedged=0.2)) as (crew, told):
            await told.until(lambda: crew.is_over)
        assert [(end.code, end.signal, end.by) for end in told.exits()] == [(None, 9, "wedged"), (0, None, "itself")]

    run(test())


def test_leaving_the_block_ends_all_and_frees_the_lock(place: Place) -> None:
    async def test() -> None:
        lock = os.open(place.folder.path / "lock", os.O_RDWR | os.O_CREAT)
        other = os.open(place.folder.path / "lock", os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            told = Told()
            async with Crew(place.job("echo up; sleep 60"), told, lock=lock) as crew:
                os.close(lock)
                crew.start([WorkerOrder(name="h.0", slot=0)])
                await told.until(told.pids)
                with pytest.raises(BlockingIOError):
                    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                await place.until_up(1)
                assert not [path for path in files_of(told.pids()[0]) if path.endswith("/lock")]
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with pytest.raises(ProcessLookupError):
                os.kill(told.pids()[0], 0)
        finally:
            os.close(other)

    run(test())


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_the_end_of_the_nursery_ends_the_crew_and_what_workers_started(place: Place) -> None:
    fifo = place.folder.path / "fifo"
    os.mkfifo(fifo)

    async def test() -> None:
        with pytest.raises(StartError, match="the nursery has ended"):
            async with place.crew(f"sleep 60 > {fifo} & wait") as (_, told):
                await told.until(told.pids)
                nursery = parent_of(told.pids()[0])
                opened.append(os.open(fifo, os.O_RDONLY))
                os.kill(nursery, signal.SIGKILL)
                await asyncio.sleep(10)

    opened: list[int] = []
    run(test())
    with open(opened[0], "rb") as alive:
        assert alive.read() == b""
