"""One host's part of a run, from the first order to the end: its crew, its lease, its files and whoever listens.

Reports that must not get lost are numbered and kept; files are sent from where the launcher's copies end. So a
launcher that comes back hears all that it has missed, and nothing that it does not need.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from dagrad_bus.errors import BusError, UsageError
from dagrad_bus.workers.launch.command import resolve
from dagrad_bus.workers.launch.connection import LIMIT, Connection, Ledger
from dagrad_bus.workers.launch.crew import Crew, Job, News
from dagrad_bus.workers.launch.folder import RunFolder
from dagrad_bus.workers.launch.lease import Lease
from dagrad_bus.workers.launch.mirror import Source, is_safe
from dagrad_bus.workers.launch.orders import (
    Add,
    Addresses,
    Attach,
    BadLine,
    Drained,
    Fault,
    Finish,
    Graph,
    Hello,
    Kill,
    Located,
    Order,
    Ready,
    Renew,
    Report,
    Signal,
    Start,
    Stop,
    WorkerOrder,
    parse_order,
)
from dagrad_bus.workers.launch.outfit import equip
from dagrad_bus.workers.launch.peerfiles import AddressFiles, GraphFiles
from dagrad_bus.workers.launch.preload import choose_preload
from dagrad_bus.workers.launch.quarters import (
    clear,
    find,
    forget_key,
    furnish,
    keep_fresh,
    open_socket,
    peer_uid,
    prepare,
    remove_socket,
    take_lock,
)

_POLL = 0.1
"""Seconds between two looks at files and at the lease."""
_PATIENCE = 15.0
"""Seconds beyond the grace period that workers of an earlier agent have to be gone."""
_FIRST_WORD = 10.0
"""Seconds that whoever connects to the socket has for its first order."""
_FRESH = 3600.0
"""Seconds after which files are marked as read again: systemd-tmpfiles takes those untouched for ten days."""
_FAREWELL = 10.0
"""Seconds that a launcher has to take the rest when all was stopped."""
_MOST_ARRIVALS = 16
"""Connections that wait to be served; more are refused."""
_LINGER = 86400.0
"""Seconds after the last worker's end that the agent of a run without a lease waits for somebody to hear of it."""


class Station:
    """One host's part of a run, from ``start`` to the end."""

    def __init__(self, start: Start, line: Connection, hello: Hello, environ: Mapping[str, str]) -> None:
        """Raise UsageError if the run or the host cannot be the name of a folder."""
        self._start = start
        self._hello = hello
        self._line: Connection | None = line
        self._environ = environ
        self._quarters = find(start.run, start.host, environ)
        self._lease = Lease(start.lease, time.monotonic())
        self._ledger = Ledger()
        self._ready: Ready | None = None
        self._arrivals: asyncio.Queue[Connection] = asyncio.Queue(_MOST_ARRIVALS)
        self._over = asyncio.Event()
        self._is_leaving = False
        """All is being stopped for good, and then this process ends."""
        self._idle_since: float | None = None
        self._has_said_drained = False
        self._finish: Finish | None = None

    async def run(self) -> int:
        """Do the host's part; return the exit code.

        Raises:
            UsageError, StartError: it could not begin, or the nursery has failed.
        """
        start, quarters = self._start, self._quarters
        _check_names(start.workers)
        folder = RunFolder(Path(start.folder) if start.folder else quarters.path)
        job = _plan(start, folder, self._environ)
        prepare(quarters)
        lock = await take_lock(quarters, start.grace + _PATIENCE)
        if not start.folder:
            furnish(quarters.path, key=start.key, roster=start.roster)
        self._addresses, self._graphs = AddressFiles(folder.path), GraphFiles(folder.path)
        self._addresses.news(order.name for order in start.workers)  # those of an earlier agent's workers
        self._source = None
        if not start.folder:
            self._source = Source(folder.path, where=start.host, notices=quarters.notices, held=start.sizes)
        try:
            async with Crew(job, self._tell, lock=lock) as self._crew:
                os.close(lock)  # the nursery has it now
                self._begin(start.workers)
                await self._serve()
        finally:
            self._clean_up()
        return 0

    async def _serve(self) -> None:
        """Obey, report and carry files until the end."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._leave)
        with open_socket(self._quarters) as sock:
            inode = self._quarters.socket.stat().st_ino
            server = await asyncio.start_unix_server(self._welcome, sock=sock, limit=LIMIT)
            try:
                async with asyncio.TaskGroup() as group:
                    line = self._line
                    assert line is not None, "nobody has taken the first line away"
                    group.create_task(self._obey_all(line), name="dagrad.agent.orders")
                    group.create_task(self._receive_guests(group), name="dagrad.agent.guests")
                    group.create_task(self._watch(), name="dagrad.agent.watch")
                    group.create_task(self._carry(), name="dagrad.agent.carry")
                    await self._over.wait()
                    raise _Ended
            except* _Ended:
                pass
            finally:
                server.close()
                remove_socket(self._quarters, inode)
                loop.remove_signal_handler(signal.SIGTERM)

    def _begin(self, workers: list[WorkerOrder]) -> None:
        _check_names(workers)
        self._crew.start(workers)
        self._has_said_drained = False
        if self._source is not None:
            self._source.add(order.name for order in workers)

    # Orders ----------------------------------------------------------------------------------------------------

    async def _obey_all(self, line: Connection) -> None:
        """Take orders of one launcher until its line ends, or another one takes over."""
        while self._line is line and (text := await line.read()):
            self._lease.renew(time.monotonic())
            try:
                self._obey(parse_order(text))
            except (BadLine, UsageError) as error:
                line.send(Fault(text=str(error), code=2))
            except BusError as error:
                line.send(Fault(text=str(error)))
        if self._line is line:
            self._line = None
            self._lease.end_stream(time.monotonic())
        line.drop()

    def _obey(self, order: Order) -> None:
        crew = self._crew
        match order:
            case Renew():
                pass
            case Add(workers=workers):
                self._begin(workers)
            case Stop(grace=grace, names=names):
                crew.stop(grace, names)
            case Kill():
                crew.kill()
            case Signal(number=number, names=names):
                crew.signal(number, names)
            case Addresses(entries=entries):
                self._addresses.publish(entries, crew.names)
            case Graph(digest=digest, at=at, size=size, data=data):
                self._graphs.add(digest, at, size, _unpack(data))
            case Finish():
                self._end(order)
            case Start() | Attach():
                raise UsageError(f"{order.op}: this agent has begun, and serves you already")

    def _end(self, order: Finish) -> None:
        if not self._crew.is_over:
            raise UsageError("workers still run: stop them first")
        self._finish = order
        self._over.set()

    def _leave(self) -> None:
        """Stop all workers, then end: SIGTERM has come."""
        self._is_leaving = True
        self._crew.stop(self._start.grace)

    # Launchers that come back ----------------------------------------------------------------------------------

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if peer_uid(writer.get_extra_info("socket")) != os.getuid() or self._arrivals.full():
            writer.transport.abort()
        else:
            self._arrivals.put_nowait(Connection(reader, writer))

    async def _receive_guests(self, group: asyncio.TaskGroup) -> None:
        while True:
            line = await self._arrivals.get()
            group.create_task(self._serve_guest(line), name="dagrad.agent.guest")

    async def _serve_guest(self, line: Connection) -> None:
        """Let a launcher that comes back take over, then obey it."""
        try:
            async with asyncio.timeout(_FIRST_WORD):
                order = parse_order(await line.read())
        except (BadLine, TimeoutError):
            line.drop()
            return
        if not isinstance(order, Attach) or (order.run, order.host) != (self._start.run, self._start.host):
            line.send(Fault(text="this socket is for a launcher of this run that comes back", gone=True))
            await line.close()
            return
        former, self._line = self._line, line
        if former is not None:
            former.drop()
        self._lease.renew(time.monotonic(), seconds=order.lease)
        self._has_said_drained = False
        line.send(self._hello)
        for report in [*([self._ready] if self._ready else []), *self._ledger.after(order.seen)]:
            line.send(report)
        if self._source is not None:
            self._source.resume(order.sizes)
        await self._obey_all(line)

    # Reports ---------------------------------------------------------------------------------------------------

    def _tell(self, news: News | Located) -> None:
        """Report to whoever listens now, and keep it for those who come later."""
        if isinstance(news, Ready):
            self._ready = news
            report: Report = news
        else:
            report = self._ledger.add(news)
        if self._line is not None:
            self._line.send(report)

    async def _watch(self) -> None:
        """Report addresses, and end all when it is time."""
        fresh_at = 0.0
        while not self._over.is_set():
            if time.monotonic() >= fresh_at:
                keep_fresh(self._quarters)
                fresh_at = time.monotonic() + _FRESH
            for entry in self._addresses.news(self._crew.names):
                self._tell(Located(entry=entry))
            self._judge(time.monotonic())
            await asyncio.sleep(_POLL)

    def _judge(self, now: float) -> None:
        if self._lease.is_expired(now) and not self._is_leaving:
            self._is_leaving = True
            self._crew.stop(self._start.grace, by="lease")
        if not self._crew.is_over:
            self._idle_since = None
            return
        self._idle_since = now if self._idle_since is None else self._idle_since
        idle = now - self._idle_since
        is_heard = self._line is not None and not self._has_said_drained
        if (self._is_leaving and (not is_heard or idle > _FAREWELL)) or (self._line is None and idle > _LINGER):
            self._over.set()

    async def _carry(self) -> None:
        """Send what the launcher's copies of files lack, as fast as it takes it; at the end say so."""
        while True:
            line, over = self._line, self._crew.is_over
            chunk = None if line is None or self._source is None else self._source.next_chunk(final=over)
            if line is not None and chunk is not None:
                line.send(chunk)
                await line.drain()
                await asyncio.sleep(0)  # a drain that need not wait does not let others in
                continue
            if line is not None and over and not self._has_said_drained and self._crew.names:
                for entry in self._addresses.news(self._crew.names):
                    self._tell(Located(entry=entry))
                line.send(Drained())
                self._has_said_drained = True
            await asyncio.sleep(_POLL)

    async def close(self, fault: Fault | None = None) -> None:
        """Say the last word, if there is somebody to hear it."""
        line, self._line = self._line, None
        if line is not None:
            if fault is not None:
                line.send(fault)
            await line.close()

    def _clean_up(self) -> None:
        """Remove what is of no use to anybody any more; logs stay unless a launcher has all of them."""
        if self._finish is None:
            forget_key(self._quarters)
        elif not self._finish.keep:
            clear(self._quarters, self._crew.names, keep=self._source.incomplete() if self._source else [])


def _check_names(workers: list[WorkerOrder]) -> None:
    for order in workers:
        if not is_safe(order.name):
            raise UsageError(f"worker {order.name[:80]!r}: that cannot be the name of a file")


def _plan(start: Start, folder: RunFolder, environ: Mapping[str, str]) -> Job:
    """Find out what is to be run, and whether it can be.

    Raises:
        CommandNotFound: there is no such command here.
        UsageError: there is no such working folder here.
    """
    cwd = Path(start.cwd)
    if not cwd.is_dir():
        raise UsageError(f"{cwd}: no such folder on this host")
    env = equip(start, folder, environ)
    sys.path += [entry for entry in env.get("PYTHONPATH", "").split(os.pathsep) if entry]  # the workers' modules count
    command = resolve(start.command, cwd=cwd)
    return Job(
        folder=folder,
        command=command,
        cwd=cwd,
        env=env,
        preload=choose_preload(command, start.preload),
        fork=start.fork,
        split=start.split,
        grace=start.grace,
        policy=start.restart,
    )


def _unpack(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise UsageError("a part of a graph that is no base64") from None


class _Ended(Exception):
    """Ends the tasks of a station."""
