"""The training thread's side of the bus: one thread with a loop, and the hand-over in both directions.

Inwards a bounded deque and a bell (an eventfd the loop reads), with a short switch interval, so that the loop takes
the frame soon even while the training thread computes in pure Python. Outwards deques and one tuple of link
states, all of them read at a step boundary. No call here waits for the network but :meth:`BusThread.wait`, for rules
that are synchronous by nature, and :meth:`BusThread.close`, for the flush time of the settings.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.blocks import Layout
from dagrad_bus.bus import Engine
from dagrad_bus.doorbell import Inbox
from dagrad_bus.errors import BusClosed, BusError, StartError, UsageError
from dagrad_bus.events import Outgoing, View
from dagrad_bus.ids import NodeId, Step
from dagrad_bus.metrics import Metrics
from dagrad_bus.record import Recorder
from dagrad_bus.rendezvous import Rendezvous
from dagrad_bus.settings import Settings
from dagrad_bus.topology.live import TopologySpec
from dagrad_bus.wire import StateRej, StateReq

SWITCH_INTERVAL = 0.00002
"""Seconds after which a thread that computes in Python lets the loop run (CPython's default is 5 ms).

Ringing the bell releases the interpreter lock, but the caller has it back before the loop's core has woken up: from
then on this interval decides. 20 us instead of 1 ms brings the loop in after about 0.1 ms instead of 1.1 ms, and costs a few
per cent of the steps of a model whose steps take 2 ms (benchmarks/bench_handoff.py, docs/benchmarks.md).
"""
PR_SET_TIMERSLACK = 29
START_TIMEOUT = 20.0
STOP_TIMEOUT = 10.0
HANDED = 64
"""Frames handed over and not yet taken by the loop, at most."""

T = TypeVar("T")


class BusThread:
    """A bus on a thread of its own, for a training loop that is no coroutine.

    Args:
        settings: who this worker is; ``settings.transport.loop`` chooses uvloop or asyncio.
        layout: what is exchanged.
        rendezvous: where addresses are told beside the folders of the settings.

    Raises:
        StartError: whatever kept the bus from starting, in the caller's thread.
    """

    def __init__(self, settings: Settings, layout: Layout, rendezvous: Rendezvous | None = None) -> None:
        self.metrics = Metrics()
        """Numbers of the training thread; the loop has its own."""
        self._bus = Engine(settings, layout, rendezvous)
        self._settings = settings
        self._layout = layout
        self._recorder = Recorder(settings, self.snapshot, self._progress)
        self._inbox: Inbox[Callable[[], object]] = Inbox(_call, HANDED)
        self._in_hand: deque[tuple[NodeId, ...]] = deque()
        """Links of the frames handed over that the loop has not taken yet, oldest first."""
        self._stirred = threading.Event()  # set when anything has changed that view() shows
        self._bus.outlook.on_change = self._stirred.set
        self._rejoins = 0
        """How often this worker was taken back, as far as the training thread was told."""
        self._stop: Callable[[], None] | None = None
        self._started: Future[None] = Future()
        self._ended: Future[None] = Future()
        self._pid = os.getpid()
        self._reason = "closed"
        self._thread = threading.Thread(target=self._run, name="dagrad-bus", daemon=True)
        self._former_switch = sys.getswitchinterval()
        sys.setswitchinterval(min(SWITCH_INTERVAL, self._former_switch))
        self._thread.start()
        try:
            self._started.result(START_TIMEOUT)
        except BaseException as error:
            sys.setswitchinterval(self._former_switch)
            if isinstance(error, TimeoutError) and not self._started.done():
                raise StartError(f"the bus thread did not start within {START_TIMEOUT} s") from None
            self._thread.join(STOP_TIMEOUT)
            raise

    # The thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        tighten_timers()
        try:
            with asyncio.Runner(loop_factory=loop_factory(self._settings.transport.loop)) as runner:
                runner.run(self._live())
        except BaseException as error:  # noqa: BLE001  # outermost line of the thread: the outcome is kept, never lost
            self._settle(error)
        else:
            self._ended.set_result(None)

    def _settle(self, error: BaseException) -> None:
        error = _innermost(error)
        self._ended.set_exception(error)
        if not self._started.done():
            self._started.set_exception(error)

    async def _live(self) -> None:
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        try:
            async with self._bus:
                self._inbox.start(loop, self._bus.fail)
                self._recorder.start(self._layout)
                async with asyncio.TaskGroup() as group:
                    record = group.create_task(self._recorder.keep(), name="dagrad-record")
                    self._stop = lambda: _ring_off(loop, stopped)
                    self._started.set_result(None)
                    await stopped.wait()
                    record.cancel()
                self._inbox.close()
        except BaseException as error:
            self._reason = type(_innermost(error)).__name__
            raise
        finally:
            self._inbox.close()
            await self._recorder.end(self._reason)

    # The training thread's side --------------------------------------------------------------------------------

    def view(self) -> View:
        """Swap out what arrived, and read the links' state. Never blocks."""
        self._check()
        bus, seen = self._bus, self._bus.outlook
        arrivals = bus.mailbox.take()
        if arrivals:
            self._inbox.put(bus.drained)
        # The loop has not looked at these yet: their state is that of before.
        busy = {peer for links in self._in_hand.copy() for peer in links}
        states = tuple(replace(s, ready=s.ready and s.peer not in busy) for s in seen.states) if busy else seen.states
        rejoins = seen.rejoined  # the loop may count on meanwhile
        is_back, self._rejoins = rejoins > self._rejoins, rejoins
        return View(
            states,
            arrivals,
            outcomes=_emptied(seen.outcomes),
            requests=_emptied(seen.requests),
            rejections=_emptied(seen.rejections),
            news=seen.news,
            others=seen.others,
            healed=_emptied(seen.healed),
            rejoined=is_back,
            events=_emptied(seen.events),
        )

    def wait(self, seconds: float) -> None:
        """Wait until something has changed since the last wait ended, at most ``seconds``."""
        self._check()
        self._stirred.wait(seconds)
        self._stirred.clear()  # before the caller looks: what comes after this wakes the next wait

    def publish(self, outgoing: Outgoing) -> bool:
        """Hand a frame to the loop. Never blocks; False: no room, nothing was taken.

        Raises:
            BusClosed: used after :meth:`close`, or the bus thread died (its error is the cause).
        """
        self._check()
        self._in_hand.append(outgoing.links)
        taken = self._inbox.put(partial(self._pass_on, outgoing))
        if not taken:
            self._in_hand.pop()
        return taken

    def tell(self, peer: NodeId, message: StateReq | StateRej) -> bool:
        """Hand over a message of the state transfer. Never blocks; False: no room."""
        self._check()
        return self._inbox.put(lambda: self._bus.tell(peer, message))

    def set_syncing(self, syncing: bool) -> None:
        """Tell whether the replica is being copied from peers."""
        self._bus.outlook.is_syncing = syncing

    def note_sketch(self, step: int, sketch: bytes) -> None:
        """Tell the sketch of the own change; without room it is not told, the next one follows soon."""
        self._check()
        self._inbox.put(lambda: self._bus.node.membership.sketched(sketch, Step(step), self._bus.loop.time()))

    def explore(self, peers: tuple[NodeId, ...]) -> None:
        """Tell with which members beyond the neighbours a link is wanted for a minute."""
        self._check()
        self._inbox.put(lambda: self._bus.explore(peers))

    def members(self) -> Mapping[str, str]:
        """Return what is believed of each member, by name."""
        return self._bus.outlook.members

    def rewire(self, spec: TopologySpec) -> bool:
        """Publish a graph. Never blocks; False: no room."""
        self._check()
        return self._inbox.put(lambda: self._bus.rewire(spec))

    def _pass_on(self, outgoing: Outgoing) -> None:
        self._bus.publish(outgoing)
        self._in_hand.popleft()

    def note_step(self, step: int, rate: float) -> None:
        """Tell the local step count and the steps a second."""
        self._bus.outlook.progress = (Step(step), rate, time.monotonic())

    def sample(self, step: int, values: NDArray[np.float32]) -> None:
        """Record the fixed coordinates of the replica at ``step``."""
        self._recorder.sample(step, values)

    def log(self, **numbers: float) -> None:
        """Record the user's own numbers at the current step."""
        self._recorder.log(self._progress()[0], numbers)

    def failure(self) -> Exception | None:
        """Return what must stop the program: the bus thread's death, or a model no neighbour shares."""
        if self._ended.done():
            error = self._ended.exception()
            return BusClosed(f"the bus thread ended: {error}") if error is not None else None
        return self._bus.outlook.failure

    def snapshot(self) -> dict[str, dict[str, object]]:
        """Return counters, gauges and histograms of both threads."""
        both = (self._bus.metrics.snapshot(), self.metrics.snapshot())
        return {part: {**both[0][part], **both[1][part]} for part in both[0]}

    def _progress(self) -> tuple[int, float]:
        step, rate, _ = self._bus.outlook.progress
        return step, rate

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise UsageError("the bus was started before this process was forked: attach in the child, or fork earlier")
        if self._ended.done():
            raise BusClosed("the bus has stopped") from self._ended.exception()

    def close(self, reason: str = "closed") -> None:
        """Leave the bus; idempotent. Raises what the bus thread died of, if it did.

        Raises:
            UsageError: called on the bus thread itself, which would wait for itself.
            BusError: the thread did not stop in time.
        """
        if os.getpid() != self._pid:
            return
        if threading.current_thread() is self._thread:
            raise UsageError("close() called on the bus thread: call it from the thread that attached")
        self._reason = reason
        if self._stop is not None and not self._ended.done():
            self._stop()
        self._thread.join(STOP_TIMEOUT)
        sys.setswitchinterval(self._former_switch)
        if self._thread.is_alive():
            raise BusError(f"the bus thread did not stop within {STOP_TIMEOUT} s")
        self._ended.result()

    def __enter__(self) -> Self:
        """Return itself: it runs since it was made."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close("closed" if kind is None else kind.__name__)


def _call(order: Callable[[], object]) -> None:
    order()


def _emptied(waiting: deque[T]) -> tuple[T, ...]:
    """Take all that waits; the loop may append meanwhile."""
    taken: list[T] = []
    while waiting:
        taken.append(waiting.popleft())
    return tuple(taken)


def tighten_timers() -> None:
    """Let this thread's timed waits end when they are due (Linux: 1 us late at most, instead of 50).

    Waiting for the interpreter lock is such a wait, of ``SWITCH_INTERVAL``.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0)


def _innermost(error: BaseException) -> BaseException:
    """Return what a group holds, if that is one exception."""
    held: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return _innermost(held[0]) if len(held) == 1 else error


def _ring_off(loop: asyncio.AbstractEventLoop, stopped: asyncio.Event) -> None:
    with suppress(RuntimeError):  # the loop is closed already: it ended by itself, and says why in _ended
        loop.call_soon_threadsafe(stopped.set)


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes the bus thread's loop: uvloop where it is installed and wanted, else asyncio's own."""
    if name == "uvloop":
        try:
            import uvloop  # optional, and not on every platform
        except ImportError:
            return asyncio.new_event_loop
        return uvloop.new_event_loop
    return asyncio.new_event_loop
