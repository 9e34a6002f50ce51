"""Virtual time for programs that block: each on a thread of its own, one at a time, over a clock that jumps.

A training loop is written as usual and sleeps as usual; only that ``sleep`` is this module's. One thread holds the
baton at any moment: the scheduler, which runs the events that are due (:class:`dagrad_bus.sim.world.World`), or one
program, until it sleeps. So runs are deterministic, no lock is needed anywhere, and a rule that waits for an answer in
the middle of ``optimizer.step()`` is simulated by the very code that runs in production.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from dagrad_bus.errors import BusError
from dagrad_bus.sim.world import World

Program = Callable[[], None]


class Ended(BaseException):
    """Thrown into programs that still sleep when the others have failed; not an error of theirs."""


class Deadlock(BusError):
    """Every program waits for another one, and no event is to come."""


class _Actor:
    """One program and its thread."""

    def __init__(self, time: VirtualTime, name: str, program: Program) -> None:
        self.name = name
        self.error: BaseException | None = None
        self.done = False
        self.alarm = 0
        """Number of the sleep that is going on; an alarm of an earlier one is stale."""
        self.asleep = False
        self._time = time
        self._program = program
        self._baton = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name=f"virtual-{name}", daemon=True)
        self._started = False

    def _run(self) -> None:
        self._baton.acquire()
        try:
            if not self._time.is_ending:
                self._program()
        except Ended:
            pass
        except BaseException as error:  # noqa: BLE001  # outermost line of the thread: raised again by the scheduler
            self.error = error
        finally:
            self.done = True
            self._time.give_back()

    def resume(self) -> None:
        """Hand the baton to the program and wait until it comes back."""
        if not self._started:
            self._started = True
            self._thread.start()
        self._baton.release()
        self._time.take_baton()
        if self.done:
            self._thread.join()

    def pause(self) -> None:
        """Give the baton back and wait for it (the program's side)."""
        self._time.give_back()
        self._baton.acquire()
        if self._time.is_ending:
            raise Ended


class VirtualTime:
    """The scheduler.

    Args:
        seed: of the world's own chance.
    """

    def __init__(self, seed: int = 0) -> None:
        self.world = World(seed)
        self.is_ending = False
        self._baton = threading.Semaphore(0)
        self._actors: list[_Actor] = []
        self._running: _Actor | None = None

    def now(self) -> float:
        """Return virtual seconds."""
        return self.world.now

    def spawn(self, name: str, program: Program, at: float = 0.0) -> int:
        """Have ``program`` begin at ``at``; return its number, for :meth:`wake`."""
        actor = _Actor(self, name, program)
        self._actors.append(actor)
        self.world.at(at, self._resume, actor, 0)
        return len(self._actors) - 1

    def sleep(self, seconds: float) -> None:
        """Let virtual time pass for the program that calls it; others run meanwhile."""
        actor = self._running
        if actor is None:
            raise BusError("sleep() belongs to the programs, not to events")
        actor.alarm += 1
        actor.asleep = True
        self.world.after(max(seconds, 0.0), self._resume, actor, actor.alarm)
        actor.pause()

    def wake(self, number: int) -> None:
        """End the present sleep of a program early, after the events that are due now."""
        actor = self._actors[number]
        if actor.asleep:
            self.world.after(0.0, self._resume, actor, actor.alarm)

    def run(self) -> None:
        """Run until all programs have ended.

        Raises:
            Deadlock: nothing can happen any more, and programs still wait.
            BaseException: the first error of a program; the others are ended.
        """
        try:
            while not all(actor.done for actor in self._actors):
                if not len(self.world):
                    waiting = [actor.name for actor in self._actors if not actor.done]
                    raise Deadlock(f"{', '.join(waiting)} wait, and nothing is to come")
                self.world.run_next()
        finally:
            self._end_all()

    def _resume(self, actor: _Actor, alarm: int) -> None:
        if actor.done or alarm != actor.alarm:
            return
        actor.alarm += 1
        actor.asleep = False
        self._running = actor
        actor.resume()
        self._running = None
        if actor.error is not None:
            raise actor.error

    def _end_all(self) -> None:
        self.is_ending = True
        for actor in self._actors:
            while not actor.done:
                actor.resume()

    def give_back(self) -> None:
        """Hand the baton to the scheduler."""
        self._baton.release()

    def take_baton(self) -> None:
        """Wait for the baton (the scheduler's side)."""
        self._baton.acquire()
