"""The nursery: a small process that starts workers and ends with its launcher, leaving none of them behind.

Importing torch takes seconds and hundreds of megabytes; 32 workers that each do it on two cores take minutes. The
nursery imports once, freezes what it has (``gc.freeze`` keeps the pages shared) and forks every worker from itself.
Where the command is no Python program, it forks and executes. Orders and reports are JSON objects, one a line, over a
socket pair:

=================  ==========================================  ==============  ====================================
launcher orders                                                nursery reports
=============================================================  ====================================================
``start``          name, words, kind, target, env, cwd, log,   ``ready``       pid, seconds, imported, notes
                   errors
``stop``           grace, names: SIGTERM, then SIGKILL after   ``started``     name, pid
                   grace
``kill``           names: SIGKILL now                          ``exited``      name, pid, code or signal, time
``signal``         number, names: pass a signal on
=================  ==========================================  ==============  ====================================

Without names an order concerns all workers; each that is stopped has a deadline of its own. The end of the stream is
an order too: the launcher is gone, so ``stop``. Should the nursery itself be killed, the kernel kills its workers
(PR_SET_PDEATHSIG). Each worker leads a session and process group; what is left of a group when its leader ends is
killed with it. Signals go to the pids started here and to no others. SIGUSR1 and SIGUSR2, which end a process that is
not prepared for them, go to the worker's own process and not to its data loaders and other helpers; all others go to
the whole group, as a terminal would send them.

The nursery alone holds the lock it is given: once that is free, no worker of this nursery is left.

A fork copies one thread only, so a library that starts threads while it is imported would leave its locks held for
ever in the children: the nursery then executes itself anew without that library.

This file imports the standard library only and is run by its path: it must work where the package is not installed.
Over 400 lines because of that: both sides of the fork are in it.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import importlib.util
import json
import math
import os
import random
import selectors
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.abc import InspectLoader
from importlib.machinery import SourceFileLoader
from types import CodeType, FrameType, ModuleType, TracebackType
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_HANDLED = (signal.SIGCHLD, signal.SIGTERM)
_OWN = (signal.SIGUSR1, signal.SIGUSR2)
"""Signals for a worker's own process only."""


@dataclass(frozen=True, slots=True)
class Birth:
    """One worker to start: the ``start`` order."""

    name: str
    kind: str
    """``module`` or ``script``: run in a fork of this process; ``program``: executed."""
    target: str
    """Module name or file; unused for a program."""
    words: tuple[str, ...]
    """The whole command line; for module and script ``sys.orig_argv``."""
    arguments: tuple[str, ...]
    """What follows the module or script."""
    env: dict[str, str]
    cwd: str
    log: str
    """File that takes stdout and stderr, appended to."""
    errors: str = ""
    """File that takes stderr instead; empty: none does."""


class Nursery:
    """Starts, watches and ends workers by order of one launcher."""

    def __init__(self, sock: socket.socket, grace: float, lock: int | None = None) -> None:
        """Take the launcher's socket; ``grace`` is in seconds and counts when the launcher dies.

        ``lock`` is a descriptor that is kept open until the end, and closed in workers.
        """
        self._sock = sock
        self._grace = grace
        self._lock = lock
        self._pid = os.getpid()
        self._children: dict[int, str] = {}
        self._text = b""
        self._launcher_gone = False
        self._is_told_to_stop = False
        """By SIGTERM."""
        self._kill_at: dict[int, float] = {}
        """By pid: when SIGKILL follows SIGTERM."""
        self._wake_read, self._wake_write = socket.socketpair()
        self._selector = selectors.DefaultSelector()

    def serve(self) -> Birth | None:
        """Obey until the launcher is gone and no worker is left; return None then, and in a child its birth."""
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, self._handle)
        signal.signal(signal.SIGTERM, self._handle)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._selector.register(self._sock, selectors.EVENT_READ)
        while not (self._launcher_gone and not self._children):
            timeout = max(0.0, min(self._kill_at.values()) - time.monotonic()) if self._kill_at else None
            for key, _ in self._selector.select(timeout):
                if key.fileobj is self._sock and (birth := self._receive_orders()) is not None:
                    return birth
            with suppress(BlockingIOError):
                self._wake_read.recv(4096)
            if self._is_told_to_stop:
                self._is_told_to_stop = False
                self._stop(self._grace)
            self._reap()
            for pid in [pid for pid, at in self._kill_at.items() if time.monotonic() >= at]:
                del self._kill_at[pid]
                signal_group(pid, signal.SIGKILL)
        return None

    def _handle(self, number: int, _: FrameType | None) -> None:
        """Take a signal, of which the selector knows by now; what it walks through must not change under its feet."""
        self._is_told_to_stop |= number == signal.SIGTERM

    def report(self, **report: object) -> None:
        """Send one report; a launcher that is gone does not hear it."""
        with suppress(OSError):
            self._sock.sendall(json.dumps(report).encode() + b"\n")

    def _receive_orders(self) -> Birth | None:
        try:
            data = self._sock.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        if not data:
            self._launcher_gone = True
            self._selector.unregister(self._sock)
            self._stop(self._grace)
            return None
        *lines, self._text = (self._text + data).split(b"\n")
        for line in lines:
            if (birth := self._obey(json.loads(line))) is not None:
                return birth
        return None

    def _obey(self, order: dict[str, Any]) -> Birth | None:
        match order.pop("op"):
            case "start":
                words, arguments = tuple(order.pop("words")), tuple(order.pop("arguments"))
                birth = Birth(**order, words=words, arguments=arguments)
                return birth if self._bear(birth) else None
            case "stop":
                self._stop(order["grace"], order.get("names"))
            case "kill":
                self._signal(signal.SIGKILL, order.get("names"))
            case "signal":
                self._signal(order["number"], order.get("names"))
            case unknown:
                raise AssertionError(f"order {unknown!r}: launcher and nursery are of one version")
        return None

    def _bear(self, birth: Birth) -> bool:
        """Fork; True in the child. Signals wait until the child has its own session and handlers."""
        former = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        try:
            pid = os.fork()
        except OSError as error:  # too many processes, too little memory: those that run must not die of it
            signal.pthread_sigmask(signal.SIG_SETMASK, former)
            os.write(2, f"dagrad: cannot start {birth.name}: {error}\n".encode())
            self.report(report="exited", name=birth.name, pid=0, time=time.time(), code=126)
            return False
        if pid == 0:
            try:
                self._leave(birth)
            except OSError as error:
                os.write(2, f"dagrad: cannot start {birth.name}: {error}\n".encode())
                os._exit(126)
            signal.pthread_sigmask(signal.SIG_SETMASK, former)
            return True
        self._children[pid] = birth.name
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
        self.report(report="started", name=birth.name, pid=pid)
        return False

    def _leave(self, birth: Birth) -> None:
        """In the child: drop everything of the nursery and become a process of its own."""
        os.setsid()
        set_death_signal(signal.SIGKILL, parent=self._pid)
        signal.set_wakeup_fd(-1)
        for number in _HANDLED:
            signal.signal(number, signal.SIG_DFL)
        self._selector.close()
        for sock in (self._sock, self._wake_read, self._wake_write):
            sock.close()
        if self._lock is not None:
            os.close(self._lock)
        for path, descriptor in ((birth.log, 1), (birth.errors or birth.log, 2)):
            _redirect(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, descriptor)
        _redirect(os.devnull, os.O_RDONLY, 0)
        os.chdir(birth.cwd)

    def _stop(self, grace: float, names: list[str] | None = None) -> None:
        for pid in self._signal(signal.SIGTERM, names):
            self._kill_at[pid] = min(time.monotonic() + grace, self._kill_at.get(pid, math.inf))

    def _signal(self, number: int, names: list[str] | None = None) -> list[int]:
        """Signal workers, all of them without ``names``; return their pids."""
        pids = [pid for pid, name in self._children.items() if names is None or name in names]
        for pid in pids:
            if number in _OWN:
                os.kill(pid, number)  # not reaped yet, so the pid is still the worker's
            else:
                signal_group(pid, number)
        return pids

    def _reap(self) -> None:
        while self._children:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return
            if ended.si_pid not in self._children:  # started by a module that was imported beforehand
                os.waitpid(ended.si_pid, 0)
                continue
            signal_group(ended.si_pid, signal.SIGKILL)  # what it left behind; its pid is not free before waitpid
            os.waitpid(ended.si_pid, 0)
            cause = "code" if ended.si_code == os.CLD_EXITED else "signal"
            name = self._children.pop(ended.si_pid)
            self._kill_at.pop(ended.si_pid, None)
            self.report(report="exited", name=name, pid=ended.si_pid, time=time.time(), **{cause: ended.si_status})


def _redirect(path: str, flags: int, descriptor: int) -> None:
    opened = os.open(path, flags | os.O_CLOEXEC, 0o644)
    os.dup2(opened, descriptor)
    os.close(opened)


def signal_group(pid: int, number: int) -> None:
    """Signal the process group that ``pid`` leads, or ``pid`` alone while it leads none yet."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def set_death_signal(number: int, *, parent: int) -> None:
    """Have the kernel send ``number`` to this process when ``parent`` ends (Linux; elsewhere nothing happens)."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended before the kernel knew
        os._exit(128 + number)


def count_threads() -> int:
    """Return the number of threads of this process, those of C libraries included where /proc tells."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def preload(modules: list[str]) -> tuple[list[str], list[str], str | None]:
    """Import ``modules``; return those imported, notes about the others and the first that started a thread."""
    imported: list[str] = []
    notes: list[str] = []
    for module in modules:
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever it is: the worker that needs the module shows it
            notes.append(f"not imported beforehand: {module} ({type(error).__name__}: {error})")
            continue
        if count_threads() > 1:
            return imported, notes, module
        imported.append(module)
    return imported, notes, None


def live(birth: Birth, imported: list[str]) -> None:
    """Be the worker: run its program as ``__main__`` the way ``python -u`` would, or execute it.

    Args:
        birth: what to be.
        imported: modules that were imported for all workers; with some this does not return.
    """
    if birth.kind == "program":
        _execute(birth)
    os.environ.clear()
    os.environ.update(birth.env)
    gc.enable()
    _reseed()
    if (torch := sys.modules.get("torch")) is not None and "OMP_NUM_THREADS" in birth.env:
        with suppress(ValueError):  # OMP_NUM_THREADS may be a list, one number a nesting level
            torch.set_num_threads(int(birth.env["OMP_NUM_THREADS"]))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, birth.name.encode()[:15], 0, 0, 0)
    sys.excepthook = _hide_our_frames
    sys.orig_argv = list(birth.words)
    if not sys.flags.safe_path:
        sys.path[0] = birth.cwd if birth.kind == "module" else os.path.dirname(os.path.realpath(birth.target))
    sys.argv = [birth.target, *birth.arguments]
    shared = frozenset(sys.modules) - {"__main__"}
    try:
        _run(birth)
    except SystemExit as end:
        if not imported or not isinstance(end.code, int | None):  # a text: Python prints it
            raise
        status = end.code or 0
    else:
        status = 0
    if imported:
        _end(status, shared)


def _run(birth: Birth) -> None:
    """Run the program as ``__main__``; nothing of it is held here afterwards."""
    main = ModuleType("__main__")
    ours = sys.modules["__main__"]  # stays alive as long as this frame
    sys.modules["__main__"] = main
    code = _load_module(main, birth.target) if birth.kind == "module" else _load_script(main, birth.target)
    exec(code, main.__dict__)  # noqa: S102  # the program that the user asked for
    del ours


def _end(status: int, shared: frozenset[str]) -> NoReturn:
    """End as Python does after a program, but take nothing apart that other workers share.

    Python's own end clears every module and runs what C libraries have left for it, and so copies the pages of all that
    was imported before the fork. Measured with torch: 150 MB a worker, here 35; eight workers on two cores are gone
    after 0.3 instead of 1.3 s. Modules that the worker has imported itself go as always: files in them are flushed,
    and what has a ``__del__`` is finalized. Forks of multiprocessing end likewise, without the handlers of C libraries.

    Args:
        status: exit code.
        shared: names of the modules that were there before.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # joins threads that are no daemons
    atexit._run_exitfuncs()
    for name in [name for name in sys.modules if name not in shared]:
        del sys.modules[name]
    gc.collect()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError):  # None, or closed by the program
            pass
        except OSError:  # what was printed is lost: Python's own code for that
            status = 120
    ctypes.CDLL(None).fflush(None)
    os._exit(status & 0xFF)


def _execute(birth: Birth) -> None:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # ignored by Python, and that would be inherited
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(birth.words[0], birth.words, birth.env)
    except OSError as error:
        os.write(2, f"dagrad: {birth.words[0]}: {error.strerror}\n".encode())
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


def _reseed() -> None:
    """Draw new states for the global generators, or all workers would draw the same numbers."""
    random.seed()
    if (numpy_random := sys.modules.get("numpy.random")) is not None:
        numpy_random.seed()


def _load_script(main: ModuleType, path: str) -> CodeType:
    path = os.path.abspath(path)
    loader = SourceFileLoader("__main__", path)
    main.__file__, main.__loader__, main.__spec__ = path, loader, None
    code: CodeType = loader.source_to_code(loader.get_data(path), path)
    return code


def _load_module(main: ModuleType, name: str) -> CodeType:
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = importlib.util.find_spec(name := f"{name}.__main__")
    code = spec.loader.get_code(name) if spec is not None and isinstance(spec.loader, InspectLoader) else None
    if spec is None or code is None:
        raise ImportError(f"No code object available for {name}")
    main.__spec__, main.__loader__, main.__package__ = spec, spec.loader, spec.parent
    main.__file__ = sys.argv[0] = spec.origin or name
    return code


def _hide_our_frames(kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
    """Print an uncaught exception as Python does for a program that it has started itself."""
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith((__file__, "<frozen importlib")):
        frames = frames.tb_next
    sys.__excepthook__(kind, error.with_traceback(frames), frames)


def main() -> None:
    """Serve the launcher that started this process; a forked worker returns from here into its program."""
    config = json.loads(sys.argv[1])
    sys.path[0] = os.getcwd()  # this file's own folder is of no use to anybody
    began = time.monotonic()
    gc.disable()
    imported, notes, threaded = preload(config["preload"])
    if threaded is not None:
        config["preload"].remove(threaded)
        config["notes"].append(f"not imported beforehand: {threaded} (it starts threads when imported)")
        os.execv(sys.executable, [sys.executable, "-u", __file__, json.dumps(config)])
    gc.collect()
    gc.freeze()
    lock = config.get("lock")
    for descriptor in (config["fd"], lock):
        if descriptor is not None:
            os.set_inheritable(descriptor, False)
    nursery = Nursery(socket.socket(fileno=config["fd"]), config["grace"], lock)
    seconds = time.monotonic() - began
    nursery.report(report="ready", pid=os.getpid(), seconds=seconds, imported=imported, notes=config["notes"] + notes)
    birth = nursery.serve()
    if birth is not None:
        live(birth, imported)


if __name__ == "__main__":
    main()
