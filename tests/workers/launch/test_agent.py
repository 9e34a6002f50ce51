from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from dagrad_bus import wire
from dagrad_bus.workers.launch.agent import WIRE
from dagrad_bus.workers.launch.mirror import Sink
from dagrad_bus.workers.launch.orders import (
    Add,
    Addresses,
    Attach,
    Chunk,
    Drained,
    Exited,
    Fault,
    Finish,
    Graph,
    Hello,
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
    parse_report,
)
from dagrad_bus.workers.launch.quarters import BASE_NAME

pytestmark = pytest.mark.slow
RUN = "0123456789abcdef"
SECRET = "5ec2e7" * 8
R = TypeVar("R", bound=Report)
JOIN = """
import json, os, pathlib, sys, time
name, folder = os.environ["DAGRAD_NAME"], pathlib.Path(os.environ["DAGRAD_RUN_DIR"])
def join(epoch=1):
    ends = {"inbox": "tcp://127.0.0.1:1", "beat": "tcp://127.0.0.1:2"}
    text = json.dumps({"name": name, "pid": os.getpid(), "epoch": epoch, **ends})
    folder.joinpath("peers", f".{name}").write_text(text)
    folder.joinpath("peers", f".{name}").rename(folder / "peers" / f"{name}.json")
"""


class Line:
    """An agent process as a launcher sees it: what it reports is read on a thread, so that it never waits."""

    def __init__(self, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "dagrad_bus.workers.launch.agent"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, start_new_session=True,
        )  # fmt: skip
        self.reports: list[Report] = []
        self.sink: Sink | None = None
        self._came = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not line.endswith(b"\n"):
                return  # a cut has cut it off
            report = parse_report(line)
            with self._came:
                if isinstance(report, Chunk) and self.sink is not None:
                    assert self.sink.take(report)
                self.reports.append(report)
                self._came.notify()

    def say(self, *orders: Order | bytes) -> None:
        assert self.process.stdin is not None
        for order in orders:
            self.process.stdin.write(order if isinstance(order, bytes) else encode(order))
        self.process.stdin.flush()

    def of(self, kind: type[R]) -> list[R]:
        return [report for report in self.reports if isinstance(report, kind)]

    def wait(self, ready: Callable[[], Any]) -> Any:
        with self._came:
            assert self._came.wait_for(ready, timeout=10), self.reports
        return ready()

    def until(self, kind: type[R], count: int = 1) -> R:
        found: R = self.wait(lambda: self.of(kind)[count - 1 : count])[0]
        return found

    def text(self, file: str) -> str:
        return "".join(chunk.data for chunk in self.of(Chunk) if chunk.file == file)

    def leave(self) -> Sink:
        """Take no more files, as a launcher that has died; return the copies for the next one to go on with."""
        with self._came:
            assert self.sink is not None
            sink, self.sink = self.sink, None
        return sink

    def finish(self) -> int:
        self.say(Finish())
        return self.process.wait(10)

    def cut(self) -> None:
        """Close both directions, as a broken connection does."""
        self.process.kill()
        self.close()

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait(15)
        self._reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


class Place:
    """Where agents of one test live."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lines: list[Line] = []
        self.env = {**os.environ, BASE_NAME: str(root / "b"), "SSH_CONNECTION": ""}
        self.private = root / "b" / RUN / "h"

    def open(self) -> Line:
        self.lines.append(Line(self.env))
        return self.lines[-1]

    def start(self, script: str = "", count: int = 1, **options: Any) -> Start:
        (self.root / "train.py").write_text(JOIN + script)
        names = [f"h.{slot}" for slot in range(count)]
        workers = [WorkerOrder(name=name, slot=slot) for slot, name in enumerate(names)]
        defaults: dict[str, Any] = {"key": SECRET, "roster": names, "lease": 60.0, "grace": 2.0, "preload": ["none"]}
        own: dict[str, Any] = {"command": ["train.py"], "cwd": str(self.root), "workers": workers}
        return Start(run=RUN, host="h", **{**defaults, **own, **options})

    def processes(self) -> list[int]:
        """Return the pids of all processes that have to do with this place, by environment."""
        mark, found = f"{BASE_NAME}={self.root / 'b'}".encode(), list[int]()
        other = f"DAGRAD_RUN_DIR={self.private}".encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                environ = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if mark in environ or other in environ:
                found.append(int(path.parent.name))
        return found

    def until_empty(self, seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while left := self.processes():
            assert time.monotonic() < deadline, left
            time.sleep(0.02)


@pytest.fixture
def place() -> Generator[Place]:
    with tempfile.TemporaryDirectory(prefix="dg", dir="/tmp") as root:
        place = Place(Path(root))
        yield place
        for line in place.lines:
            if line.process.poll() is None:
                line.process.kill()
            line.close()
        place.until_empty()


def exits(line: Line) -> dict[str, Exited]:
    return {report.name: report for report in line.of(Exited)}


def test_it_says_hello_at_once_and_without_heavy_modules(place: Place) -> None:
    began = time.monotonic()
    hello = place.open().until(Hello)
    assert time.monotonic() - began < 5  # 0.2 s on an idle machine
    assert (hello.wire, hello.python) == (wire.MAJOR, sys.version.split()[0])
    assert abs(hello.clock - time.time()) < 60
    code = "import sys, dagrad_bus.workers.launch.agent; print({'torch', 'numpy', 'zmq', 'click'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


def test_the_wire_version_is_that_of_the_wire() -> None:
    assert wire.MAJOR == WIRE


def test_a_run_from_start_to_finish(place: Place) -> None:
    line = place.open()
    script = 'join(); print("out é", os.environ["DAGRAD_ATTEMPT"]); sys.exit(name == "h.1" and os.environ["DAGRAD_ATTEMPT"] == "0")'
    line.say(place.start(script, 2, restart=RestartPolicy(first=0.05)))
    assert line.until(Ready).folder == str(place.private)
    key = place.private / "key"
    assert (key.read_text(), key.stat().st_mode & 0o777) == (SECRET + "\n", 0o600)
    assert (place.private / "roster").read_text() == "h.0\nh.1\n"
    line.until(Drained)
    assert [(end.name, end.attempt, end.code, end.wait is None) for end in sorted(line.of(Exited), key=lambda e: (e.name, e.attempt))] == [
        ("h.0", 0, 0, True), ("h.1", 0, 1, False), ("h.1", 1, 0, True)]  # fmt: skip
    numbered = [report.n for report in line.reports if isinstance(report, Started | Exited | Located)]
    assert numbered == list(range(1, len(numbered) + 1))
    assert {one.entry["name"] for one in line.of(Located)} == {"h.0", "h.1"}
    assert (line.text("logs/h.0.log"), line.text("logs/h.1.log")) == ("out é 0\n", "out é 0\nout é 1\n")
    assert line.finish() == 0
    assert list((place.root / "b").iterdir()) == []


def test_a_given_folder_is_used_and_nothing_is_sent_back(place: Place) -> None:
    folder = place.root / "run"
    for name in ("peers", "logs", "workers"):
        (folder / name).mkdir(parents=True)
    line = place.open()
    line.say(place.start("join(); print(os.environ['DAGRAD_KEY_FILE'])", folder=str(folder), lease=0.0))
    line.until(Drained)
    assert (folder / "logs" / "h.0.log").read_text() == f"{folder / 'key'}\n"
    assert line.of(Located)[0].entry["name"] == "h.0"
    assert line.finish() == 0
    assert not line.of(Chunk)
    assert (folder / "peers" / "h.0.json").exists()


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        ({"command": ["nothing.py"]}, 127, "nothing.py: no such file"),
        ({"command": ["./train.py.txt"]}, 127, "command not found"),
        ({"command": ["./plain"]}, 126, "not executable"),
        ({"cwd": "/no/such/folder"}, 2, "/no/such/folder: no such folder on this host"),
        ({"workers": [WorkerOrder(name="../h", slot=0)]}, 2, "cannot be the name of a file"),
    ],
)
def test_what_cannot_begin_is_a_fault_with_its_code(
    place: Place, options: dict[str, Any], code: int, text: str
) -> None:
    (place.root / "plain").write_text("")
    line = place.open()
    line.say(place.start(**options))
    fault = line.until(Fault)
    assert fault.code == code and text in fault.text
    assert line.process.wait(5) == code
    assert not place.private.exists()


def test_bad_orders_are_faults_and_the_agent_goes_on(place: Place) -> None:
    line = place.open()
    line.say(Renew(), b"Welcome!\n", Stop(), place.start("time.sleep(60)"), b'{"op":"dance"}\n', b"\n", place.start())
    line.say(Add(workers=[WorkerOrder(name="h.0", slot=0)]), Signal(number=99), Finish())
    line.say(Graph(digest="ab", at=0, size=3, data="?"), Addresses(entries={"x": {}}))
    line.wait(lambda: len(line.of(Fault)) == 10)
    texts = ["no JSON", "stop: the first order", "unknown op 'dance'", "no JSON", "start: this agent has begun"]
    texts += ["h.0 runs already", "signal 99", "workers still run", "no base64", "is no address"]
    assert [text in fault.text for text, fault in zip(texts, line.of(Fault), strict=True)] == [True] * 10
    line.until(Started)
    line.say(Stop(grace=1))
    assert line.until(Exited).by == "launcher"
    line.until(Drained)
    assert line.finish() == 0


def test_what_others_told_is_there_for_the_workers(place: Place) -> None:
    line = place.open()
    script = "\nwhile not (folder / 'peers' / 'n2.0.json').exists() or not (folder / 'graphs' / 'ab.json').exists(): time.sleep(0.01)"
    line.say(place.start(script), Graph(digest="ab", at=0, size=3, data="YWJj"))
    entry = {"name": "n2.0", "pid": 1, "epoch": 1, "inbox": "tcp://127.0.0.1:3", "beat": "tcp://127.0.0.1:4"}
    line.say(Addresses(entries={"n2.0": entry}))
    line.until(Drained)
    assert exits(line)["h.0"].code == 0
    assert not [one for one in line.of(Located) if one.entry["name"] == "n2.0"]
    line.finish()


def test_the_secret_is_on_no_command_line(place: Place) -> None:
    line = place.open()
    line.say(place.start("print('up'); time.sleep(60)", 2))
    line.wait(lambda: all("up" in line.text(f"logs/h.{n}.log") for n in range(2)))
    pids = place.processes()
    assert len(pids) == 4  # agent, nursery, two workers
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert SECRET.encode() not in path.read_bytes()
        except OSError:
            continue
    for pid in pids:
        assert SECRET.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    line.say(Stop())
    line.until(Drained)
    line.finish()


def test_a_killed_agent_leaves_nobody_behind(place: Place) -> None:
    line = place.open()
    script = "import signal, subprocess; signal.signal(15, signal.SIG_IGN); subprocess.Popen(['sleep', '60']); print('up'); time.sleep(60)"
    line.say(place.start(script, 2, grace=0.3))
    line.wait(lambda: all("up" in line.text(f"logs/h.{n}.log") for n in range(2)))
    assert len(place.processes()) == 6
    line.process.kill()
    place.until_empty(5)


def test_sigterm_stops_the_workers_first(place: Place) -> None:
    line = place.open()
    line.say(place.start("import signal; signal.signal(15, lambda *_: sys.exit(3)); print('up'); time.sleep(60)"))
    line.wait(lambda: "up" in line.text("logs/h.0.log"))
    line.process.send_signal(signal.SIGINT)  # the launcher's affair
    line.process.send_signal(signal.SIGTERM)
    line.until(Drained)
    assert (exits(line)["h.0"].code, exits(line)["h.0"].by) == (3, "launcher")
    assert line.process.wait(5) == 0
    assert not (place.private / "key").exists()


def test_without_a_lease_workers_end_with_the_stream(place: Place) -> None:
    line = place.open()
    line.say(place.start("time.sleep(60)", 2, lease=0.0))
    line.until(Started, 2)
    line.close()
    assert line.process.returncode == 0
    assert place.processes() == []


@pytest.mark.parametrize("silent", [True, False])
def test_a_lease_runs_out_in_silence_and_after_a_cut(place: Place, silent: bool) -> None:
    line = place.open()
    line.say(place.start("time.sleep(60)", 1, lease=0.6))
    line.until(Started)
    began = time.monotonic()
    if silent:
        line.until(Drained)
        assert exits(line)["h.0"].by == "lease"
        assert line.process.wait(5) == 0
    else:
        line.close()
    assert 0.3 < time.monotonic() - began < 5
    assert place.processes() == []


def test_a_launcher_that_comes_back_gets_what_it_lacks(place: Place) -> None:
    first = place.open()
    there = place.root / "copy"
    for name in ("logs", "workers"):
        (there / name).mkdir(parents=True)
    script = """
join()
for n in range(400):
    print("line", n, "é" * 200, flush=True)
    time.sleep(0.001)
folder.joinpath("workers", name + ".jsonl").write_text('{"event": "end"}\\n')
while not folder.joinpath("go").exists(): time.sleep(0.01)
print("the end")
"""
    first.sink = Sink(there, ["h.0", "h.1"])
    first.say(place.start(script, 2))
    first.wait(lambda: first.of(Chunk) and len(first.of(Located)) == 2)
    assert first.process.stdin is not None
    relays = [first]
    seen = max(report.n for report in first.reports if isinstance(report, Started | Located))
    for _ in range(2):  # the first line ends with the launcher, the second relay is cut off
        second = place.open()
        second.until(Hello)
        second.sink = relays[-1].leave()
        second.say(Attach(run=RUN, host="h", seen=seen, sizes=second.sink.sizes()))
        assert second.until(Hello, 2).pid == first.process.pid
        second.until(Ready)
        relays.append(second)
    (place.private / "go").touch()
    last = relays[-1]
    last.until(Drained)
    assert {report.n for report in last.reports if isinstance(report, Started | Exited | Located)} == {
        seen + 1,
        seen + 2,
    }
    for name in ("h.0", "h.1"):
        assert (there / "logs" / f"{name}.log").read_bytes() == (place.private / "logs" / f"{name}.log").read_bytes()
        assert (there / "workers" / f"{name}.jsonl").read_text() == '{"event": "end"}\n'
    assert relays[1].process.wait(5) == 0  # the running agent dropped it
    assert last.finish() == 0
    assert first.process.wait(5) == 0


def test_a_run_left_alone_can_be_found_again(place: Place) -> None:
    folder = place.root / "run"
    for name in ("peers", "logs", "workers"):
        (folder / name).mkdir(parents=True)
    line = place.open()
    line.say(place.start("join(); time.sleep(60)", folder=str(folder), lease=-1.0))
    line.until(Located)
    assert line.process.stdin is not None and line.process.stdout is not None
    line.process.stdin.close()
    time.sleep(0.3)
    assert line.process.poll() is None
    back = place.open()
    back.say(Attach(run=RUN, host="h"))
    assert [one.name for one in (back.until(Started), back.until(Ready)) if isinstance(one, Started)] == ["h.0"]
    back.say(Stop(grace=1))
    back.until(Drained)
    assert exits(back)["h.0"].signal == 15
    assert back.finish() == 0
    assert line.process.wait(5) == 0


def test_who_is_gone_is_not_found(place: Place) -> None:
    line = place.open()
    line.say(Attach(run=RUN, host="h"))
    assert line.until(Fault).gone
    assert line.process.wait(5) == 1


def test_a_second_agent_waits_for_the_workers_of_the_first(place: Place) -> None:
    script = """
import signal
def stop(*_):
    time.sleep(0.5)
    folder.joinpath("left").write_text(str(time.time()))
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
print("up")
while not folder.joinpath("left").exists(): time.sleep(0.01)
print("follows", time.time() > float(folder.joinpath("left").read_text()))
"""
    first = place.open()
    first.say(place.start(script, grace=5.0))
    first.wait(lambda: "up" in first.text("logs/h.0.log"))
    first.process.kill()
    second = place.open()
    second.say(place.start(script, grace=5.0))
    second.until(Drained)
    assert second.text("logs/h.0.log") == "up\nup\nfollows True\n"
    second.finish()


def test_it_needs_pipes(place: Place) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "dagrad_bus.workers.launch.agent"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=place.env,
    )  # fmt: skip
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr == "dagrad: stdin and stdout must be pipes: an agent is started by dagrad run\n"
