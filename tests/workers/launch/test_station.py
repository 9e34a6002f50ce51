from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from dagrad_bus.errors import StartError
from dagrad_bus.workers.launch import mirror, station
from dagrad_bus.workers.launch.connection import LIMIT, Connection
from dagrad_bus.workers.launch.folder import RunFolder
from dagrad_bus.workers.launch.orders import (
    Attach,
    Chunk,
    Drained,
    Exited,
    Fault,
    Finish,
    Hello,
    Located,
    Ready,
    Report,
    Start,
    Started,
    Stop,
    WorkerOrder,
    parse_report,
)
from dagrad_bus.workers.launch.quarters import BASE_NAME, Quarters
from dagrad_bus.workers.launch.station import Station

pytestmark = pytest.mark.slow
RUN = "0123456789abcdef"
HELLO = Hello(pid=os.getpid(), python="3", version="1", wire=1)
R = TypeVar("R", bound=Report)


async def connect(sock: socket.socket) -> Connection:
    return Connection(*await asyncio.open_unix_connection(sock=sock, limit=LIMIT))


class Scene:
    """A station in this process, and a launcher's end of its line."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.quarters = Quarters(base / RUN / "h")
        self.folder = RunFolder(self.quarters.path)
        self.reports: list[Report] = []

    async def play(
        self, script: str, act: Callable[[Connection], Coroutine[Any, Any, None]], **options: Any
    ) -> None:  # fmt: skip
        """Run ``script`` as the only worker while ``act`` does the launcher's part."""
        environ = {"PATH": os.environ["PATH"], BASE_NAME: str(self.base)}
        workers = [WorkerOrder(name="h.0", slot=0)]
        defaults: dict[str, Any] = {
            "key": "k",
            "lease": 60.0,
            "grace": 1.0,
            "workers": workers,
            "cwd": str(self.base.parent),
        }
        start = Start(run=RUN, host="h", command=["sh", "-c", script], **{**defaults, **options})
        ours, theirs = socket.socketpair()
        line, far = await connect(ours), await connect(theirs)
        one = Station(start, far, HELLO, environ)
        try:
            async with asyncio.timeout(10), asyncio.TaskGroup() as group:
                group.create_task(act(line), name="launcher")
                assert await one.run() == 0
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            await one.close()
            line.drop()
            await asyncio.sleep(0)

    async def until(self, line: Connection, kind: type[R]) -> R:
        while True:
            report = parse_report(await line.read())
            self.reports.append(report)
            if isinstance(report, kind):
                return report

    async def knock(self) -> Connection:
        """Come in by the socket."""
        return Connection(*await asyncio.open_unix_connection(str(self.quarters.socket), limit=LIMIT))


@pytest.fixture
def scene() -> Generator[Scene]:
    with tempfile.TemporaryDirectory(prefix="dg", dir="/tmp") as root:
        yield Scene(Path(root) / "b")


def test_a_stranger_is_told_that_it_is_wrong_and_a_silent_one_is_dropped(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(station, "_FIRST_WORD", 0.1)

    async def act(line: Connection) -> None:
        await scene.until(line, Started)
        stranger, silent = await scene.knock(), await scene.knock()
        stranger.send(Attach(run="f" * 16, host="h"))
        assert (await scene.until(stranger, Fault)).gone
        assert (await stranger.read(), await silent.read()) == (b"", b"")
        stranger.drop()
        silent.drop()
        line.send(Stop(grace=1))  # the line of before still serves
        await scene.until(line, Drained)
        line.send(Finish())

    asyncio.run(scene.play("sleep 60", act))


def test_who_comes_back_gives_another_lease_and_hears_only_what_is_new(scene: Scene) -> None:
    async def act(line: Connection) -> None:
        seen = (await scene.until(line, Started)).n
        back = await scene.knock()
        back.send(Attach(run=RUN, host="h", seen=seen, lease=0.3))
        scene.reports.clear()
        assert await scene.until(back, Hello) == HELLO
        assert await line.read() == b""
        await scene.until(back, Drained)  # in silence: the new lease has run out
        assert [type(report) for report in scene.reports] == [Hello, Ready, Exited, Drained]
        assert [report.by for report in scene.reports if isinstance(report, Exited)] == ["lease"]
        back.drop()

    asyncio.run(scene.play("sleep 60", act, lease=-1.0))
    assert not scene.folder.key.exists() and scene.folder.log("h.0").exists()


def test_a_launcher_that_does_not_read_delays_the_end_for_seconds_only(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(station, "_FAREWELL", 0.2)
    monkeypatch.setattr("dagrad_bus.workers.launch.connection._FAREWELL", 0.1)

    async def act(line: Connection) -> None:
        await scene.until(line, Started)

    asyncio.run(scene.play("yes | head -c 40000000; sleep 60", act, lease=0.5))


def test_a_run_left_alone_ends_when_nobody_wants_to_hear_of_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(station, "_LINGER", 0.2)

    async def act(line: Connection) -> None:
        await scene.until(line, Started)
        line.drop()

    asyncio.run(scene.play("sleep 0.3; echo done", act, lease=-1.0))
    assert scene.folder.log("h.0").read_text() == "done\n"


@pytest.mark.parametrize("keep", [False, True])
def test_a_log_that_was_skipped_stays_on_its_host(scene: Scene, monkeypatch: pytest.MonkeyPatch, keep: bool) -> None:
    monkeypatch.setattr(mirror, "MOST_BEHIND", 10_000)
    monkeypatch.setattr(mirror, "KEPT", 1000)

    async def act(line: Connection) -> None:
        await scene.until(line, Drained)
        line.send(Finish(keep=keep))

    asyncio.run(scene.play("yes 123456789 | head -n 100000", act))
    text = "".join(report.data for report in scene.reports if isinstance(report, Chunk))
    assert f"all of it is in h:{scene.folder.log('h.0')}]\n" in text and text.endswith("123456789\n")
    assert scene.folder.log("h.0").stat().st_size == 1_000_000
    assert (scene.folder.key.exists(), scene.folder.journal("h.0").parent.exists()) == (keep, keep)


def test_an_address_of_an_earlier_worker_is_not_told(scene: Scene) -> None:
    script = (
        'd=$DAGRAD_RUN_DIR/peers; echo "{\\"name\\": \\"h.0\\", \\"epoch\\": $EPOCH}" > $d/new; mv $d/new $d/h.0.json'
    )

    async def act(line: Connection) -> None:
        await scene.until(line, Drained)
        line.send(Finish(keep=True))

    asyncio.run(scene.play(script, act, env={"EPOCH": "1"}))
    asyncio.run(scene.play("true", act))
    asyncio.run(scene.play(script, act, env={"EPOCH": "2"}))
    assert [report.entry["epoch"] for report in scene.reports if isinstance(report, Located)] == [1, 2]


def test_the_end_of_the_nursery_is_an_error(scene: Scene) -> None:
    async def act(line: Connection) -> None:
        pid = (await scene.until(line, Started)).pid
        os.kill(_parent(pid), signal.SIGKILL)

    with pytest.raises(StartError, match="the nursery has ended"):
        asyncio.run(scene.play("sleep 60", act))
    assert not scene.folder.key.exists()


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
