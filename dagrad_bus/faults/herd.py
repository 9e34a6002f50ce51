"""A herd: many light worker processes on this host, with a line to each, for tests that stop, kill and restart them.

::

    with Herd(folder, names, seed=7) as herd:
        herd.start()
        herd.await_linked(20)
        herd["w3"].kill()
        herd.until("w3 is dead everywhere", lambda: ..., 5)

Everything blocks, with deadlines; nothing outlives the ``with``.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from dagrad_bus.errors import StartError
from dagrad_bus.faults.lines import Answer, Line, OrderFailed, ProcessGone
from dagrad_bus.faults.nursery import PACKET
from dagrad_bus.faults.remote import RemoteProxy
from dagrad_bus.ids import NodeId, derive_node_id

RUN = "herd"
KEY = "herd-secret"
PORTS = range(20_000, 32_000)
"""Where fixed ports are taken: below the range from which the system hands ports to who connects."""
START = 30.0
POLL = 0.05
"""Seconds between two looks at a condition."""


@dataclass(slots=True, eq=False)
class Member:
    """One worker process, or the place of one."""

    name: str
    node: NodeId
    inbox_port: int
    beat_port: int
    log: Path
    host: str = "127.0.0.1"
    line: Line | None = None
    pid: int = 0
    exit: Answer | None = None
    """``code`` and ``signal`` of a process that has ended."""
    config: Answer = field(default_factory=dict[str, Any])

    @property
    def is_running(self) -> bool:
        """Whether there is a process, stopped or not."""
        return bool(self.pid) and self.exit is None

    def signal(self, number: signal.Signals) -> float:
        """Send a signal; return the moment, monotonic."""
        if not self.is_running:
            raise ProcessGone(f"{self.name} does not run")
        os.kill(self.pid, number)
        return time.monotonic()

    def ask(self, op: str, seconds: float = 10.0, **order: object) -> Answer:
        """Give one order and return the answer (see :mod:`dagrad_bus.faults.worker`)."""
        return self.reach.ask(op, seconds, **order)

    def tell(self, op: str, **order: object) -> int:
        """Give an order whose answer nobody waits for now."""
        return self.reach.start(op, **order)

    @property
    def reach(self) -> Line:
        """The line to the process.

        Raises:
            ProcessGone: there is none.
        """
        if self.line is None:
            raise ProcessGone(f"{self.name} does not run")
        return self.line


class Herd:
    """Worker processes of one run.

    Args:
        folder: run folder and logs.
        names: of all members launched; their order is their index.
        seed: of all chance in the herd.
        proxied: put a fault proxy before every listening socket.
        change: settings of all members, in the JSON form of :func:`dagrad_bus.faults.worker.settings_of`.
        pace: seconds a step.
        replica: arguments of :class:`~dagrad_bus.faults.versions.Replica`.
    """

    def __init__(
        self,
        folder: Path,
        names: Iterable[str],
        *,
        seed: int = 0,
        proxied: bool = False,
        change: Mapping[str, Any] | None = None,
        pace: float = 0.05,
        replica: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.names = tuple(names)
        self.seed = seed
        self.pace = pace
        self.proxy: RemoteProxy | None = RemoteProxy(seed) if proxied else None
        self._change = dict(change or {})
        self._replica = dict(replica or {})
        self._stack = contextlib.ExitStack()
        self._told: dict[str, tuple[int, int]] = {}
        self.members: dict[str, Member] = {}

    def __enter__(self) -> Self:
        """Start the nursery and the proxy; no worker yet."""
        try:
            if self.proxy is not None:
                self._stack.enter_context(self.proxy)
            self._orders = self._open_nursery()
            for name in self.names:
                self.add(name)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what still runs; the nursery reaps it."""
        for member in self.members.values():
            if member.line is not None:
                member.line.close()
        self._stack.close()

    def _open_nursery(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "dagrad_bus.faults.nursery", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )

        def end() -> None:
            ours.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

        self._stack.callback(end)
        return ours

    def add(self, name: str, host: str = "127.0.0.1") -> Member:
        """Make a place for a worker; :meth:`start` fills it."""
        taken = {port for other in self.members.values() for port in (other.inbox_port, other.beat_port)}
        inbox, beat = free_ports(2, taken)
        member = Member(name, derive_node_id(RUN, name), inbox, beat, self.folder / f"{name}.log", host)
        self.members[name] = member
        if self.proxy is not None:
            self._told[name] = (
                self.proxy.ask("open", route=f"{name}.inbox", upstream=(host, inbox))["port"],
                self.proxy.ask("open", route=f"{name}.beat", upstream=(host, beat))["port"],
            )
        return member

    def __getitem__(self, name: str) -> Member:
        """Return a member by its name."""
        return self.members[name]

    @property
    def running(self) -> tuple[str, ...]:
        """Names of those with a process."""
        return tuple(name for name, member in self.members.items() if member.is_running)

    # Starting and ending ---------------------------------------------------------------------------------------

    def start(self, *names: str, wait: bool = True, **extra: Any) -> None:
        """Start workers (all, if none are named) and wait until their sockets are bound.

        Args:
            names: whom; one that was killed is started anew in its place, on its ports.
            wait: whether to wait.
            extra: ``namespace``, ``cores``, ``limits`` of the processes.

        Raises:
            StartError: one did not come up.
        """
        wanted = names or self.names
        for name in wanted:
            self._launch(self.members[name], extra)
        if wait:
            self.await_started(*wanted)

    def await_started(self, *names: str) -> None:
        """Wait until the sockets of these workers are bound.

        Raises:
            StartError: one did not come up.
        """
        for name in names:
            member = self.members[name]
            try:
                hello = member.reach.await_answer(0, START)
            except (ProcessGone, OrderFailed, TimeoutError) as error:
                words = member.log.read_text()[-2000:] if member.log.exists() else ""
                raise StartError(f"{name} did not start: {error}\n{words}") from None
            member.config["endpoints"] = hello["endpoints"]

    def _launch(self, member: Member, extra: Mapping[str, Any]) -> None:
        if member.line is not None:
            member.line.close()
        ours, theirs = socket.socketpair()
        member.config = self._config(member, extra)
        with theirs:
            socket.send_fds(self._orders, [json.dumps(member.config).encode()], [theirs.fileno()])
        member.line, member.exit = Line(ours), None
        while True:
            report = self._report(START)
            if "started" in report:
                member.pid = report["started"]
                return

    def _config(self, member: Member, extra: Mapping[str, Any]) -> Answer:
        change = dict(self._change)
        transport = {"inbox_port": member.inbox_port, "beat_port": member.beat_port, **change.pop("transport", {})}
        if member.host != "127.0.0.1":
            transport |= {"bind": member.host}
        if member.name in self._told:
            transport["advertise_inbox_port"], transport["advertise_beat_port"] = self._told[member.name]
        settings = {
            "run": RUN,
            "name": member.name,
            "members": self.names,
            "key": KEY,
            "directory": str(self.folder),
            "transport": transport,
            "exchange": {"wire": "f32"},
            **change,
        }
        index = list(self.members).index(member.name)
        return {
            "settings": settings,
            "roster": list(self.members),
            "seed": self.seed * 1009 + index,
            "pace": self.pace,
            "replica": self._replica,
            "log": str(member.log),
            **extra,
        }

    def _report(self, seconds: float) -> Answer:
        """Take one packet of the nursery, and note who ended."""
        if not select.select([self._orders], [], [], seconds)[0]:
            raise StartError("the nursery does not answer")
        packet = self._orders.recv(PACKET)
        if not packet:
            raise StartError("the nursery has ended")
        report: Answer = json.loads(packet)
        for member in self.members.values():
            if report.get("exited") == member.pid:
                member.exit = report
        return report

    def note_exits(self) -> None:
        """Take in what the nursery says of processes that ended."""
        while select.select([self._orders], [], [], 0)[0]:
            self._report(0)

    def kill(self, *names: str) -> float:
        """SIGKILL workers at once; return the moment, monotonic."""
        for name in names:
            self.members[name].signal(signal.SIGKILL)
        moment = time.monotonic()
        self.until("the killed are gone", lambda: not set(names) & set(self.running), 5)
        return moment

    def leave(self, *names: str, seconds: float = 15.0) -> dict[str, Answer]:
        """Let workers leave in order; return what each left behind: ``threads``, ``descriptors``."""
        asked = {name: self.members[name].tell("leave") for name in names or self.running}
        return {name: self.members[name].reach.await_answer(number, seconds) for name, number in asked.items()}

    # Looking ---------------------------------------------------------------------------------------------------

    def ask_all(
        self, op: str, names: Iterable[str] | None = None, seconds: float = 20.0, **order: object
    ) -> dict[str, Answer]:
        """Give one order to many (those running, if none are named) and return the answers by name."""
        wanted = tuple(names if names is not None else self.running)
        asked = {name: self.members[name].tell(op, **order) for name in wanted}
        return {name: self.members[name].reach.await_answer(number, seconds) for name, number in asked.items()}

    def states(self, names: Iterable[str] | None = None) -> dict[str, Answer]:
        """Return how things stand, as each worker sees them."""
        self.note_exits()
        return self.ask_all("state", names)

    def until(self, what: str, condition: Callable[[], object], seconds: float) -> float:
        """Wait for a condition; return how long it took.

        Raises:
            AssertionError: in vain; ``what`` was awaited.
        """
        start = time.monotonic()
        while not condition():
            if time.monotonic() - start > seconds:
                raise AssertionError(f"in vain, {seconds} s: {what}")
            self.note_exits()
            time.sleep(POLL)
        return time.monotonic() - start

    def await_linked(self, seconds: float, names: Iterable[str] | None = None) -> float:
        """Wait until every outgoing link of ``names`` (all) to those running is up; return how long it took."""
        chosen = tuple(names if names is not None else self.running)

        def linked() -> bool:
            return all(self.links_up(state, self.running) for state in self.states(chosen).values())

        return self.until("all links up", linked, seconds)

    @staticmethod
    def links_up(state: Answer, among: Iterable[str]) -> bool:
        """Whether all links of one worker to those named are up, and it has any."""
        wanted = set(state["neighbours"]) & set(among)
        return bool(wanted) and all(state["out"].get(name) in {"up", "stalled"} for name in wanted)

    def counter(self, name: str, states: Mapping[str, Answer]) -> int:
        """Return a counter summed over the workers."""
        return sum(int(state["metrics"]["counters"].get(name, 0)) for state in states.values())


def free_ports(count: int, taken: Iterable[int] = ()) -> list[int]:
    """Return ports that nobody listens on, outside the range handed to who connects; drawn, so that runs rarely meet."""
    found: list[int] = []
    for port in random.SystemRandom().sample(sorted(set(PORTS) - set(taken)), 1000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise StartError("no free port")
