"""A run while it happens: one post a host, what they report, what the user is shown, and when it is over.

Nothing of the training passes through here. A worker that ends, however it ends, leaves the others alone, and so does
the launcher itself where workers have a lease. The first SIGINT or SIGTERM asks all workers to stop and kills them
after the grace period, the second kills at once; SIGUSR1 and SIGUSR2 are passed on; SIGHUP reads the host file again.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from dagrad_bus.errors import StartError
from dagrad_bus.workers.launch.brief import Berth, Launch
from dagrad_bus.workers.launch.census import Census
from dagrad_bus.workers.launch.chronicle import Chronicle
from dagrad_bus.workers.launch.directory import Directory
from dagrad_bus.workers.launch.elastic import compare
from dagrad_bus.workers.launch.mirror import Sink
from dagrad_bus.workers.launch.orders import (
    CalledOff,
    Exited,
    Fault,
    Kill,
    Located,
    Order,
    Ready,
    Report,
    Signal,
    Started,
    Stop,
)
from dagrad_bus.workers.launch.outcome import Outcome, Watcher, Worker
from dagrad_bus.workers.launch.post import Post
from dagrad_bus.workers.launch.screen import Screen
from dagrad_bus.workers.launch.terminal import Terminal

POLL = 0.1
"""Seconds between two looks at logs, journals and addresses."""
RENEWALS = 6
"""How often in a lease the launcher says that it lives."""
AT_ONCE = 32
"""Hosts dialled at a time."""
_STOPPING = (signal.SIGINT, signal.SIGTERM)
_PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2)
_HANDLED = (*_STOPPING, *_PASSED_ON, signal.SIGHUP, signal.SIGTSTP)
MEETING = 30.0
"""Seconds that workers on several hosts have to publish their addresses before a launcher leaves them."""


class Launcher:
    """One launch while it happens."""

    def __init__(self, launch: Launch, watcher: Watcher) -> None:
        self._launch = launch
        self._screen = Screen(launch.folder, watcher, split=launch.start.split, returning=launch.returning)
        self._posts: dict[str, Post] = {}
        self._tending: dict[str, asyncio.Task[None]] = {}
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._chronicle = Chronicle(launch.folder)
        self._census = Census(launch, self._screen, self._chronicle)
        self._workers = self._census.workers
        self._outcome = self._census.outcome
        self._directory = Directory(launch.folder)
        self._over = asyncio.Event()
        self._failure: StartError | None = None
        self._given_up: dict[str, str] = {}
        """Hosts that were never reached, and why."""
        self._at_first = {berth.label for berth in launch.berths}
        self._dropped: set[str] = set()
        """Workers whose slots the host file had no more."""
        self._terminal = Terminal()

    async def run(self) -> Outcome:
        """Start all workers and return when the last has ended and all its output was shown.

        Raises:
            CommandNotFound: a host lacks the command; no worker is left then.
            StartError: an agent could not begin; no worker is left then.
        """
        loop = asyncio.get_running_loop()
        former = {number: signal.getsignal(number) for number in _HANDLED}
        for number in _HANDLED:
            loop.add_signal_handler(number, self._signalled, number)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for berth in self._launch.berths:
                    self._open(berth)
                if self._launch.stop_at_once:
                    self._stop(signal.SIGTERM)
                beside = [group.create_task(job(), name=f"dagrad.{job.__name__}") for job in self._jobs()]
                await self._over.wait()
                for task in beside:
                    task.cancel()
        finally:
            for number, handler in former.items():
                loop.remove_signal_handler(number)
                if handler is not None:  # one of C code
                    signal.signal(number, handler)
            self._screen.look(final=True)
            self._chronicle.close()
        if self._failure is not None:
            raise self._failure
        return self._outcome

    def _jobs(self) -> list[Callable[[], Any]]:
        jobs: list[Callable[[], Any]] = [self._show]
        if self._launch.start.lease > 0:
            jobs.append(self._renew)
        if any(not berth.is_local for berth in self._launch.berths) or self._launch.reread is not None:
            jobs.append(self._spread_addresses)
        if self._launch.detach:
            jobs.append(self._leave_in_time)
        return jobs

    # Hosts -----------------------------------------------------------------------------------------------------

    def _open(self, berth: Berth, *, joins: bool = False) -> None:
        """Begin with a host."""
        launch = self._launch
        for order in berth.workers:
            self._census.expect(order.name)
        folder = str(launch.folder.path) if berth.is_local else ""
        start = replace(
            launch.start,
            host=berth.label,
            folder=folder,
            workers=list(berth.workers),
            advertise=berth.advertise,
            cwd=berth.cwd or launch.start.cwd,
        )
        sink = None if berth.is_local else Sink(launch.folder.path, [order.name for order in berth.workers])
        post = Post(berth, start, sink, self, self._gate, returning=launch.returning and not joins)
        self._posts[berth.label] = post
        self._tending[berth.label] = self._group.create_task(self._tend(post), name=f"dagrad.{berth.label}")

    async def _tend(self, post: Post) -> None:
        """Serve one host; the run is over with the last one."""
        try:
            await post.run()
        except StartError as error:
            self._could_not_begin(post, error)
        self._posts.pop(post.label, None)
        if not self._posts:
            self._over.set()
        self._leave_missing()

    def _could_not_begin(self, post: Post, error: StartError) -> None:
        """Give up before it has begun; a run that goes on does so without a host that came later, or came back."""
        if post.has_served or post.label not in self._at_first:
            self._note(str(error))
            self.lost(post, post.unfinished, None)
        elif self._failure is None:  # the others are told to stop before it is raised
            self._failure = error
            self._outcome.aborted = str(error)
            self._end(Stop(grace=self._launch.start.grace))

    def _leave_missing(self) -> None:
        """Where no hosts are left but those that are away for good, nothing is worth waiting for."""
        if all(post.is_written_off or label in self._given_up for label, post in self._posts.items()):
            self._outcome.unreachable |= set(self._posts) == self._at_first and set(self._given_up) >= self._at_first
            self._forget_hosts()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._launch.start.lease / RENEWALS)
            for post in self._posts.values():
                post.renew()

    async def _spread_addresses(self) -> None:
        """Hand every remote host the addresses that the others' workers, and workers that joined, have published."""
        while True:
            for post in self._posts.values():
                if post.is_connected and not post.berth.is_local:
                    for order in self._directory.news_for(post.label, post.names):
                        post.send(order)
            await asyncio.sleep(POLL)

    # What posts learn (Listener) -------------------------------------------------------------------------------

    def reported(self, post: Post, report: Report) -> None:
        """Take a report."""
        match report:
            case Ready(notes=notes):
                self._chronicle.add("ready", host=post.label, imports=report.seconds)
                for note in notes:
                    self._note(f"{post.label}: {note}" if len(self._launch.berths) > 1 else note)
            case Started():
                self._census.started(report)
            case Exited():
                self._census.exited(report)
            case CalledOff():
                self._census.called_off(report)
            case Located(entry=entry):
                self._directory.publish(post.names, entry)
            case Fault(text=text):
                self._note(f"{post.label}: {text}")
            case _:
                pass
        self._judge()

    def connected(self, post: Post) -> None:
        """Take note that the agent answers."""
        was_cut = [self._workers[name] for name in post.names if self._workers[name].cut_off]
        for worker in was_cut:
            worker.cut_off = False
        if was_cut:
            self._note(f"{post.label}: reached again")
        self._given_up.pop(post.label, None)
        self._directory.forget(post.label)

    def cut(self, post: Post, why: str) -> None:
        """Take note that a host cannot be reached at present."""
        if post.hello is None:
            known = post.label in self._given_up
            self._given_up[post.label] = why
            if not known:
                self._note(f"{post.label}: cannot be reached: {_last_line(why)}")
            self._judge_start()
            self._leave_missing()
            return
        workers = [self._workers[name] for name in post.unfinished]
        if workers and not all(worker.cut_off for worker in workers):
            lease = self._launch.start.lease
            life = f"; its {len(workers)} workers go on, for {lease:g} s at most without us" if lease > 0 else ""
            self._note(f"{post.label}: the connection has ended{life} ({_last_line(why)})")
            self._chronicle.add("cut", host=post.label, why=why)
        for worker in workers:
            worker.cut_off = True

    def lost(self, post: Post, names: list[str], wait: float | None) -> None:
        """Take note that workers are gone and nobody saw how."""
        for name in names:
            self._census.lost(name, wait)
        if names and post.hello is not None:
            what = "they start again" if wait is not None else "they are not started again"
            self._note(f"{post.label}: its agent is gone, and {len(names)} workers with it; {what}")
        self._judge()
        self._leave_missing()

    def said(self, post: Post, text: str) -> None:
        """Show what is no report."""
        self._screen.watcher.show_line(post.label, text)

    # Whether to go on ------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        """Give up if too few workers are left."""
        outcome, least = self._outcome, self._launch.min_workers
        if outcome.aborted or outcome.stopped_by is not None:
            return
        hopeful, left = self._census.hopeful, self._census.hopeful + self._census.succeeded
        if self._launch.abort and outcome.failures:
            self._abort(f"{outcome.failures[0].name} failed")
        elif least is not None and left < least and hopeful:
            self._abort(f"{left} workers are left, fewer than {least}")

    def _judge_start(self) -> None:
        """Give up if hosts that cannot be reached leave too few workers to begin with."""
        if self._outcome.aborted or self._outcome.stopped_by is not None or self._launch.returning:
            return
        wanted = {berth.label: len(berth.workers) for berth in self._launch.berths}
        left = sum(count for label, count in wanted.items() if label not in self._given_up)
        least = self._launch.min_workers if self._launch.min_workers is not None else sum(wanted.values())
        if left < least and not wanted.keys().isdisjoint(self._given_up):
            hosts = ", ".join(sorted(self._given_up))
            self._outcome.unreachable = True
            self._abort(f"cannot reach {hosts}; --min-workers N starts without them, dagrad doctor looks further")

    # Ends ------------------------------------------------------------------------------------------------------

    def _abort(self, why: str) -> None:
        self._outcome.aborted = why
        self._note(f"given up: {why}")
        self._end(Stop(grace=self._launch.start.grace))

    def _end(self, order: Order) -> None:
        grace = self._launch.start.grace if isinstance(order, Stop) else 0.0
        for post in list(self._posts.values()):
            post.end(order, grace)

    def _leave(self) -> None:
        """End, and leave the workers to themselves."""
        self._outcome.left = True
        self._forget_hosts()

    def _forget_hosts(self) -> None:
        for task in self._tending.values():
            task.cancel()
        self._over.set()

    async def _leave_in_time(self) -> None:
        """Leave when all workers run and, on several hosts, were told of one another."""
        while any(one.pid is None and not one.is_over for one in self._reachable()):  # noqa: ASYNC110  # many events
            await asyncio.sleep(POLL)
        if any(not post.berth.is_local for post in self._posts.values()):
            deadline = time.monotonic() + MEETING
            while time.monotonic() < deadline and not self._have_met():  # noqa: ASYNC110  # other processes' files
                await asyncio.sleep(POLL)
            await asyncio.sleep(10 * POLL)  # what was handed on last is on its way
        self._leave()

    def _reachable(self) -> list[Worker]:
        missing = {name for label in self._given_up if label in self._posts for name in self._posts[label].names}
        return [worker for worker in self._workers.values() if worker.name not in missing]

    def _have_met(self) -> bool:
        return all(worker.exit is not None or self._directory.has(worker.name) for worker in self._reachable())

    def _signalled(self, number: signal.Signals) -> None:
        if number in _PASSED_ON:
            missed = [label for label, post in self._posts.items() if not post.send(Signal(number=number))]
            but = f" but those of {', '.join(missed)}, out of reach" if missed else ""
            self._note(f"{number.name} passed on to all workers{but}")
        elif number == signal.SIGTSTP:
            self._note("Ctrl-Z has no effect: a stopped launcher would let the workers' lease end (use --detach)")
        elif number == signal.SIGHUP and self._launch.reread is not None and not self._terminal.is_lost:
            self._reread(self._launch.reread)
        elif number != signal.SIGHUP or not self._terminal.hangup_is_ignored:
            self._stop(signal.SIGTERM if number == signal.SIGHUP else number)

    def _stop(self, number: signal.Signals) -> None:
        grace = self._launch.start.grace
        if number == signal.SIGINT and self._launch.leave_on_interrupt:
            self._leave()
        elif self._outcome.stopped_by is None:
            self._outcome.stopped_by = number
            self._note(f"{number.name}: stopping all workers, at most {grace:g} s; once more kills them")
            self._end(Stop(grace=grace))
        else:
            self._outcome.killed = True
            self._end(Kill())

    # Elastic hosts ---------------------------------------------------------------------------------------------

    def _reread(self, wanted: Callable[[], Sequence[Berth]]) -> None:
        """Start workers on slots that the host file has now, stop those on slots that it has no more."""
        try:
            change = compare(wanted(), self._workers, self._dropped)
        except (ValueError, OSError) as error:  # a host file with a mistake, or none, changes nothing
            self._note(f"the host file was not taken: {error}")
            return
        self._dropped.update(change.gone)
        for post in self._posts.values():
            if theirs := [name for name in change.gone if name in post.names]:
                post.drop(theirs, self._launch.start.grace)
        for berth in change.joining:
            self._extend(berth)
        self._note(f"host file read again: {change.added} workers added, {len(change.gone)} stopped")
        self._chronicle.add("reread", added=change.added, stopped=change.gone)

    def _extend(self, berth: Berth) -> None:
        """Start workers that join the run."""
        self._dropped.difference_update(order.name for order in berth.workers)
        if berth.label not in self._posts:
            self._open(berth, joins=True)
            return
        for order in berth.workers:
            self._census.expect(order.name)
        self._posts[berth.label].add(list(berth.workers))

    def _note(self, text: str) -> None:
        self._screen.watcher.show_note(text)

    async def _show(self) -> None:
        """Show what workers print and write, until they are gone; the last look takes everything."""
        while True:
            self._screen.look(final=False)
            await asyncio.sleep(POLL)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no reason given"


def run_launch(launch: Launch, watcher: Watcher) -> Outcome:
    """Run ``launch`` to its end on a loop of its own.

    Raises:
        StartError: a host could not begin; no worker is left then.
    """
    with asyncio.Runner() as runner:
        try:
            return runner.run(Launcher(launch, watcher).run())
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise
