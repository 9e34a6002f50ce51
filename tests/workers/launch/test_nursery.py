from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.workers.launch.channel import open_channel
from dagrad_bus.workers.launch.nursery import Nursery, preload

Bear = Callable[..., tuple[list[dict[str, Any]], str]]


@pytest.fixture
def bear(tmp_path: Path) -> Bear:
    """Run a script (or module of the same folder) in forks; give their exits and their output."""

    async def run(
        text: str,
        *,
        kind: str = "script",
        modules: tuple[str, ...] = (),
        count: int = 1,
        arguments: tuple[str, ...] = (),
    ) -> tuple[list[dict[str, Any]], str]:
        script = tmp_path / "program.py"
        script.write_text(text)
        env = {**os.environ, "PYTHONPATH": str(tmp_path)}
        env.pop("PYTHONSAFEPATH", None)
        log = tmp_path / "log"
        exits: list[dict[str, Any]] = []
        async with open_channel(env, preload=modules, grace=1, log=tmp_path / "nursery.log") as channel:
            for slot in range(count):
                channel.send_order(
                    "start",
                    name=f"local.{slot}",
                    kind=kind,
                    target="program" if kind == "module" else "program.py",
                    words=(sys.executable, "-u", "program.py", *arguments),
                    arguments=arguments,
                    env={**env, "SLOT": str(slot)},
                    cwd=str(tmp_path),
                    log=str(log),
                )
            while len(exits) < count:
                report = await channel.receive_report()
                if report["report"] == "exited":
                    exits.append(report)
                elif report["report"] == "ready":
                    (tmp_path / "notes").write_text("\n".join(report["notes"]))
        return exits, log.read_text()

    return lambda *words, **options: asyncio.run(run(*words, **options))


def plain(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The same program started by Python itself."""
    return subprocess.run(
        [sys.executable, "-u", *words],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=15,
        check=False,
    )


PROGRAMS = {
    "returns": "print('all good')",
    "exits": "import sys; sys.exit(7)",
    "exits with text": "import sys; sys.exit('why')",
    "exits at the end": "import atexit; atexit.register(print, 'bye'); print('hello')",
    "raises": "def f():\n    return 1 / 0\n\nf()",
    "raises from": "try:\n    1 / 0\nexcept Exception as e:\n    raise ValueError('x') from e",
    "no syntax": "def f(:",
    "imports what is not there": "import nosuchmodule",
    "interrupted": "raise KeyboardInterrupt",
    "killed": "import os, signal; print('x'); os.kill(os.getpid(), signal.SIGSEGV)",
    "main": "import sys, os; print(__name__, sys.argv, __file__, sys.path[0], sys.modules['__main__'].__dict__ is globals())",
    "leaves an object": "class Left:\n    def __del__(self): print('gone')\nleft = Left()",
    "exits with much": "import sys; sys.exit(1 << 40)",
    "exits with less than nothing": "import sys; sys.exit(-1)",
    "exits in a thread's time": "import sys, threading, time\n"
    "threading.Thread(target=lambda: (time.sleep(0.2), print('later'))).start()\nsys.exit(4)",
    "closes its output": "import sys; print('x'); sys.stdout.close()",
    "threads": "import threading; threading.Thread(target=lambda: print('in a thread')).start()",
    "classes": "import pickle\nclass A: pass\nassert type(pickle.loads(pickle.dumps(A()))) is A; print('same')",
    "stdin": "import sys; print(repr(sys.stdin.read()))",
    "children": "import subprocess, sys; print(subprocess.run([sys.executable, '-c', 'print(1)']).returncode)",
    "loops": "import asyncio\nasync def f(): await asyncio.sleep(0); print('looped')\nasyncio.run(f())",
    "signals": "import signal; print(signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGCHLD), "
    "signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.pthread_sigmask(0, []))",
}


@pytest.mark.parametrize("modules", [(), ("random",)], ids=["nothing shared", "a module shared"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_forked_script_does_what_python_does(name: str, modules: tuple[str, ...], bear: Bear, tmp_path: Path) -> None:
    exits, text = bear(PROGRAMS[name], modules=modules, arguments=("--lr", "0.1"))
    expected = plain(tmp_path, "program.py", "--lr", "0.1")
    code = -exits[0]["signal"] if "signal" in exits[0] else exits[0]["code"]
    assert (code, text) == (expected.returncode, expected.stdout)


def test_a_forked_module_does_what_python_does(bear: Bear, tmp_path: Path) -> None:
    text = "import sys; print(__name__, sys.argv, __spec__.name, __package__, __file__); sys.exit(3)"
    exits, out = bear(text, kind="module", arguments=("x",))
    expected = plain(tmp_path, "-m", "program", "x")
    assert (exits[0]["code"], out) == (expected.returncode, expected.stdout)


def test_a_file_that_a_forked_program_leaves_open_is_whole(bear: Bear, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("theirs = open('theirs', 'w'); theirs.write('b')")
    bear("import helper; own = open('own', 'w'); own.write('a'); import sys; sys.exit()", modules=("random",))
    assert ((tmp_path / "own").read_text(), (tmp_path / "theirs").read_text()) == ("a", "b")


def test_forks_draw_different_numbers(bear: Bear) -> None:
    text = "import random, numpy, sys; sys.stdout.write(f'{random.random()} {numpy.random.random()} ')"
    _, out = bear(text, modules=("random", "numpy"), count=3)
    drawn = out.split()
    assert len(set(drawn)) == 6


def test_modules_are_imported_once_for_all(bear: Bear, tmp_path: Path) -> None:
    (tmp_path / "heavy.py").write_text("import os; print('heavy by', os.getpid())")
    _, out = bear("import heavy, sys; sys.stdout.write('ok ')", modules=("heavy",), count=3)
    assert out.split() == ["ok"] * 3
    assert (tmp_path / "nursery.log").read_text().count("heavy by") == 1


def test_a_module_that_starts_threads_is_left_to_the_workers(bear: Bear, tmp_path: Path) -> None:
    text = "import threading\nif threading.main_thread().name: threading.Thread(target=threading.Event().wait, daemon=True).start()"
    (tmp_path / "busy.py").write_text(text)
    (tmp_path / "calm.py").write_text("")
    exits, out = bear("import sys; print('busy' in sys.modules, 'calm' in sys.modules)", modules=("busy", "calm"))
    assert (exits[0]["code"], out) == (0, "False True\n")
    assert "busy (it starts threads" in (tmp_path / "notes").read_text()


def test_a_module_that_fails_is_noted(bear: Bear, tmp_path: Path) -> None:
    exits, _ = bear("", modules=("nosuchmodule",))
    assert exits[0]["code"] == 0
    assert "nosuchmodule (ModuleNotFoundError" in (tmp_path / "notes").read_text()


def test_a_module_that_ends_the_interpreter_is_noted_too(bear: Bear, tmp_path: Path) -> None:
    (tmp_path / "guardless.py").write_text("raise SystemExit(3)")
    exits, _ = bear("", modules=("guardless",))
    assert exits[0]["code"] == 0
    assert "guardless (SystemExit: 3)" in (tmp_path / "notes").read_text()


def test_a_process_that_a_module_has_started_may_end_before_the_workers(bear: Bear, tmp_path: Path) -> None:
    (tmp_path / "helped.py").write_text("import subprocess\nhelper = subprocess.Popen(['sleep', '0.5'])")
    exits, out = bear("import time; time.sleep(1); print('trained')", modules=("helped",))
    assert (exits[0]["code"], out) == (0, "trained\n")


def test_what_a_worker_leaves_behind_ends_with_it(bear: Bear, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    bear(
        f"import subprocess; subprocess.Popen(['sleep', '60'], stdout=open({str(fifo)!r}, 'w')); import os; os._exit(0)"
    )
    with open(reader, "rb") as alive:
        os.set_blocking(reader, True)
        assert alive.read() == b""  # ends with the last process that holds the other end


def test_preload_tells_what_it_imported() -> None:
    imported, notes, threaded = preload(["json", "nosuchmodule"])
    assert "json" in imported or threaded == "json"  # the threads of other tests count too
    assert threaded is not None or "nosuchmodule" in notes[0]


def test_a_worker_that_cannot_be_forked_is_an_exit_and_not_the_end_of_the_others(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        nursery = Nursery(theirs, 1.0)
        birth: dict[str, Any] = {
            "name": "h.0",
            "kind": "program",
            "target": "",
            "words": ["true"],
            "arguments": [],
            "env": {},
        }
        assert nursery._obey({"op": "start", **birth, "cwd": "/", "log": "/dev/null"}) is None
        report = json.loads(ours.recv(1000))
        nursery._wake_read.close()
        nursery._wake_write.close()
        nursery._selector.close()
    assert (report["report"], report["name"], report["code"]) == ("exited", "h.0", 126)
    assert "cannot start h.0" in capfd.readouterr().err


def test_sigterm_stops_the_workers_and_the_nursery_goes_on(tmp_path: Path) -> None:
    async def run() -> list[tuple[str, int]]:
        ends: list[tuple[str, int]] = []
        async with open_channel(os.environ, preload=(), grace=5, log=tmp_path / "nursery.log") as channel:
            nursery = (await channel.receive_report())["pid"]

            async def start(*words: str) -> None:
                channel.send_order("start", name="h.0", kind="program", target="", words=words, arguments=(), env={},
                                   cwd="/", log=str(tmp_path / "log"))  # fmt: skip
                assert (await channel.receive_report())["report"] == "started"

            await start("/bin/sleep", "60")
            os.kill(nursery, signal.SIGTERM)
            ends.append(("signal", (await channel.receive_report())["signal"]))
            await start("/bin/true")
            ends.append(("code", (await channel.receive_report())["code"]))
        return ends

    assert asyncio.run(run()) == [("signal", signal.SIGTERM), ("code", 0)]
