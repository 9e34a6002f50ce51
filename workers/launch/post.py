"""The launcher's side of one host: reaches its agent, gives orders, takes reports, and comes back after a cut.

A connection that breaks is not the end of the workers: they live as long as the lease. The post dials again, asks for
the agent that runs there already and goes on where it was. Where that agent is gone, so are its workers: new ones
start in their place, as often as the restart policy allows.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Literal, Protocol

from dagrad_bus.errors import StartError
from dagrad_bus.workers.launch.brief import Berth
from dagrad_bus.workers.launch.command import CommandNotFound
from dagrad_bus.workers.launch.mirror import Sink
from dagrad_bus.workers.launch.orders import (
    VERSION,
    Add,
    Attach,
    BadLine,
    CalledOff,
    Chunk,
    Drained,
    Exited,
    Fault,
    Finish,
    Hello,
    Located,
    Order,
    Ready,
    Renew,
    Report,
    Start,
    Started,
    Stop,
    WorkerOrder,
    encode,
    parse_report,
)
from dagrad_bus.workers.launch.pipes import Pipe
from dagrad_bus.workers.launch.slots import Slots

HELLO_TIMEOUT = 30.0
"""Seconds from dialling to the agent's first word: a connection, a login and the start of an interpreter."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Seconds between two attempts to reach a host."""
FAREWELL = 5.0
"""Seconds beyond the grace period after which a host that cannot be told to stop is left to its lease."""

End = Literal["over", "gone", "lost"]


class Listener(Protocol):
    """Is told what a post learns; called on the loop."""

    def reported(self, post: Post, report: Report) -> None:
        """Take a report."""
        ...

    def connected(self, post: Post) -> None:
        """Take note that the agent answers."""
        ...

    def cut(self, post: Post, why: str) -> None:
        """Take note that it cannot be reached at present; it is dialled again."""
        ...

    def lost(self, post: Post, names: list[str], wait: float | None) -> None:
        """Take note that these workers are gone unseen; ``wait``: seconds until they start again, None: they do not."""
        ...

    def said(self, post: Post, text: str) -> None:
        """Show a line that is no report: a banner."""
        ...


class Post:
    """One host while the run lasts.

    Args:
        berth: which one.
        start: the order with which its agent begins.
        sink: takes files that are sent; None where the agent writes into the launcher's folder.
        listener: is told everything.
        gate: how many hosts are dialled at a time.
        returning: the agent may run already (its launcher died, or had left it alone): ask for it first.
    """

    def __init__(
        self, berth: Berth, start: Start, sink: Sink | None, listener: Listener, gate: asyncio.Semaphore,
        *, returning: bool = False,
    ) -> None:  # fmt: skip
        self.berth = berth
        self.start = start
        self.hello: Hello | None = None
        """Of the agent that serves; None before the first one."""
        self.is_connected = False
        self.has_served = False
        """Whether an agent ever got as far as to start workers."""
        self.is_written_off = False
        """Whether it was away for so long that its workers are gone, whatever became of it."""
        self._sink = sink
        self._listener = listener
        self._gate = gate
        self._pipe: Pipe | None = None
        self._slots = Slots(berth.label, berth.workers)
        self._returning = self._began = returning
        """Whether an agent was given its first order."""
        self._born = time.monotonic()
        self._seen = 0
        self._revivals = 0
        self._cut_at: float | None = time.monotonic()
        self._stop: Order | None = None
        self._stop_by: float | None = None
        self._limit: asyncio.Timeout | None = None
        """Of the connection that there is."""
        self._wake = asyncio.Event()

    @property
    def label(self) -> str:
        """Of the host."""
        return self.berth.label

    @property
    def names(self) -> list[str]:
        """Of all workers that it was ever told to start."""
        return self._slots.names

    @property
    def unfinished(self) -> list[str]:
        """Names of those that are not over."""
        return self._slots.unfinished

    def send(self, order: Order) -> bool:
        """Give an order; False: the agent cannot be reached at present, and nothing was sent."""
        if self._pipe is None or not self.is_connected:
            return False
        self._pipe.write(encode(order))
        return True

    def renew(self) -> None:
        """Say that the launcher lives; an agent that is still beginning must hear it too."""
        if self._pipe is not None and self.hello is not None:
            self._pipe.write(encode(Renew()))

    def add(self, workers: list[WorkerOrder]) -> None:
        """Have more workers start; a host that cannot be reached is told when it can."""
        if self._sink is not None:
            self._sink.add(worker.name for worker in workers)
        self._slots.add(workers, sent=self.send(Add(workers=workers)))

    def drop(self, names: list[str], grace: float) -> None:
        """Have these workers end and stay away; a host that cannot be reached is told when it can."""
        self._slots.unwanted |= dict.fromkeys(names, grace)
        self.send(Stop(grace=grace, names=names))

    def end(self, order: Order, grace: float) -> None:
        """Have all workers end; a host that cannot be reached is told when it can, or left to its lease."""
        self._stop = order
        self._stop_by = time.monotonic() + grace + FAREWELL
        self.send(order)
        self._wake.set()
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(self._due())

    async def run(self) -> None:
        """Serve the host until none of its workers is left, or it is given up.

        Raises:
            CommandNotFound: there is no such command on the host.
            StartError: the agent is of another version, or could not start.
        """
        pause = FIRST_PAUSE
        while not self._is_hopeless():
            end = await self._visit()
            was_connected, self.is_connected = self.is_connected, False
            if end == "over":
                self._began, self._seen = False, 0  # workers that were added meanwhile need another agent
            elif end == "gone":
                await self._rest(self._revive())
            else:
                pause = FIRST_PAUSE if was_connected else pause
                self._write_off()
                await self._rest(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        if self.unfinished:
            self._listener.lost(self, self.unfinished, None)

    def _is_hopeless(self) -> bool:
        """Whether there is nothing (more) to wait for."""
        if self._stop_by is not None and (not self._began or time.monotonic() > self._stop_by):
            return True
        return not self.unfinished and (not self._began or self._is_beyond_lease())

    def _is_beyond_lease(self) -> bool:
        """Whether it is away for so long that its agent has ended by itself."""
        if self._cut_at is None or self.start.lease < 0:
            return False
        return time.monotonic() > self._cut_at + self.start.lease + self.start.grace

    def _due(self) -> float | None:
        """Return when a connection is to end at the latest, in the loop's time; None: whenever it ends."""
        if self._stop_by is None:
            return None
        left = self._stop_by - time.monotonic() if self._began else 0.0
        return asyncio.get_running_loop().time() + left

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    # One connection --------------------------------------------------------------------------------------------

    async def _visit(self) -> End:
        """Dial, serve until the connection ends, and return what has ended."""
        end: End = "lost"
        why = ""
        limit = asyncio.timeout_at(self._due())
        try:
            async with limit, AsyncExitStack() as stack:
                self._limit = limit
                try:
                    pipe, hello = await self._dial(stack)
                    if hello is not None:
                        self._greet(pipe, hello)
                        end = await self._serve(pipe)
                finally:
                    self._pipe = self._limit = None
                why = pipe.describe_end()
        except (OSError, TimeoutError) as error:
            why = str(error) or f"no answer within {HELLO_TIMEOUT:g} s"
        if end == "lost" and not limit.expired():
            self._cut_at = self._cut_at or time.monotonic()
            self._listener.cut(self, why or "it said no more")
        return end

    async def _dial(self, stack: AsyncExitStack) -> tuple[Pipe, Hello | None]:
        """Open a pipe and wait for the agent's first word; None: the connection ended before."""
        async with self._gate, asyncio.timeout(HELLO_TIMEOUT):
            pipe = self._pipe = await stack.enter_async_context(self.berth.dial())
            hello = await self._next(pipe)
        return pipe, hello if isinstance(hello, Hello) else None

    def _greet(self, pipe: Pipe, hello: Hello) -> None:
        """Give the first order."""
        if hello.v != VERSION:
            raise StartError(
                f"{self.label}: its agent speaks version {hello.v}, this launcher {VERSION}: "
                f"install one version of dagrad-bus everywhere (there: {hello.version})"
            )
        self.hello = hello
        pipe.write(encode(self._first_order()))
        self._began = True

    def _first_order(self) -> Order:
        self._slots.told.clear()
        sizes = self._sink.sizes() if self._sink is not None else {}
        if not self._began:
            self._slots.unsent.clear()
            self._born, self._cut_at = time.monotonic(), None
            self.start = replace(self.start, workers=self._slots.next_orders(self.unfinished), sizes=sizes)
            return self.start
        return Attach(run=self.start.run, host=self.label, seen=self._seen, sizes=sizes)

    async def _serve(self, pipe: Pipe) -> End:
        """Take reports until the stream ends; return what has ended with it."""
        while (report := await self._next(pipe)) is not None:
            match report:
                case Hello():
                    pass  # of the agent that was found again
                case Ready():
                    self._joined(report)
                case Fault(gone=True):
                    return "gone"
                case Fault() if not self.is_connected:
                    failure = CommandNotFound(f"{self.label}: {report.text}")
                    failure.code = report.code if 0 < report.code < 256 else 125  # it must not pass for success
                    raise failure
                case Chunk():
                    if self._sink is not None:
                        self._sink.take(report)
                case Drained():
                    if self._is_settled():
                        pipe.write(encode(Finish()))
                        await self._hear_out(pipe)
                        return "over"
                case _:
                    self._take(report)
        return "lost"

    def _joined(self, ready: Ready) -> None:
        """Take note that the agent has taken its first order, and tell it what it has missed."""
        stop = self._stop
        self.is_connected = self.has_served = True
        self._cut_at = None
        self.is_written_off = False
        self._listener.connected(self)
        self._listener.reported(self, ready)
        if stop is not None:
            self.send(stop)
            return
        if unsent := sorted(self._slots.unsent):
            self.add(self._slots.next_orders(unsent))
        for name in self.unfinished:
            if name in self._slots.unwanted:
                self.drop([name], self._slots.unwanted[name])

    def _is_settled(self) -> bool:
        """Whether the agent, with nothing left to do, may end; workers of which it has not heard are told again."""
        missing = self._slots.next_orders(self._slots.swallowed)
        if self._stop is not None or self._returning:  # they will not be started any more
            for order in missing:
                self._take(CalledOff(n=self._seen + 1, name=order.name, attempt=order.attempt))
        elif missing:  # a cut has swallowed the order
            self.add(missing)
        return not self.unfinished

    def _take(self, report: Report) -> None:
        """Pass a report on once, however often it comes."""
        if isinstance(report, Started | Exited | CalledOff | Located):
            if report.n <= self._seen:
                return
            self._seen = report.n
        if not self._slots.take(report):
            return
        if self._sink is not None and isinstance(report, Started):
            self._sink.add([report.name])
        self._listener.reported(self, report)

    async def _hear_out(self, pipe: Pipe) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL):
                while await pipe.read():
                    pass

    async def _next(self, pipe: Pipe) -> Report | None:
        """Return the next report; None at the end. What is none is a banner."""
        while line := await pipe.read():
            try:
                return parse_report(line)
            except BadLine:
                if line.endswith(b"\n") or not line.startswith(b"{"):  # else a report that a cut has cut off
                    self._listener.said(self, line.decode(errors="replace").rstrip())
        return None

    # When it does not come back --------------------------------------------------------------------------------

    def _revive(self) -> float:
        """The agent is gone, and its workers with it: decide whether they start again; return the pause before."""
        policy = self.start.restart
        self._slots.end(name for name in self.unfinished if name in self._slots.unwanted)
        left = self.unfinished
        self._began, self._seen = False, 0
        if time.monotonic() - self._born >= policy.healthy:
            self._revivals = 0
        if not left:
            return 0.0
        if self._stop is not None or policy.on_failure != "restart" or self._revivals >= policy.most:
            self._slots.end(left)
            self._listener.lost(self, left, None)
            return 0.0
        wait = float(min(policy.first * 2.0**self._revivals, policy.longest))
        self._revivals += 1
        self._listener.lost(self, left, wait)
        return wait

    def _write_off(self) -> None:
        """A host that was away for longer than its lease has no workers any more, whatever became of it."""
        if self._began and not self.is_written_off and self._is_beyond_lease():
            self.is_written_off = True
            self._listener.lost(self, self.unfinished, None)
