"""What became of each worker: kept for the table, the exit code and the chronicle, and said to the user."""

from __future__ import annotations

import signal
import time

from dagrad_bus.workers.launch.brief import Launch
from dagrad_bus.workers.launch.chronicle import Chronicle
from dagrad_bus.workers.launch.orders import CalledOff, Exited, Started
from dagrad_bus.workers.launch.outcome import Exit, Outcome, Worker
from dagrad_bus.workers.launch.screen import Screen


class Census:
    """All workers of one launch.

    Args:
        launch: which one.
        screen: follows their files.
        chronicle: is told of each event.
    """

    def __init__(self, launch: Launch, screen: Screen, chronicle: Chronicle) -> None:
        self.outcome = Outcome([], min_success=launch.min_success)
        self._screen = screen
        self._chronicle = chronicle
        self._lease = launch.start.lease
        self._began = time.monotonic()

    @property
    def workers(self) -> dict[str, Worker]:
        """All of them, by name."""
        return self._screen.workers

    @property
    def hopeful(self) -> int:
        """How many live or may yet live."""
        return sum(not worker.is_over for worker in self.workers.values())

    @property
    def succeeded(self) -> int:
        """How many ended with 0."""
        return sum(worker.exit is not None and worker.exit.status == 0 for worker in self.workers.values())

    def expect(self, name: str) -> None:
        """A worker is to start, for the first time or anew."""
        if name not in self.workers:
            self.outcome.workers.append(self._screen.add(name))
        worker = self.workers[name]
        worker.pid = worker.exit = worker.returns_at = None

    def started(self, report: Started) -> None:
        """Take note that a process runs."""
        worker = self._find(report.name)
        self.outcome.failures = [ended for ended in self.outcome.failures if ended.name != report.name]
        worker.pid, worker.started_at, worker.attempt = report.pid, report.time, report.attempt
        worker.exit = worker.returns_at = None
        worker.cut_off = False
        if not report.attempt:
            self.outcome.start_seconds = time.monotonic() - self._began
        self._chronicle.began(report.name, report.pid, report.attempt)

    def exited(self, report: Exited) -> None:
        """Take note of an end."""
        worker = self._find(report.name)
        worker.exit = Exit(report.name, report.pid, report.code, report.signal, report.time, report.attempt)
        self._chronicle.ended(worker.exit, by=report.by, wait=report.wait)
        if report.wait is not None:
            worker.returns_at = report.time + report.wait
            self._note(f"{report.name} failed: {worker.exit.text}; starts again in {report.wait:.1f} s")
            return
        why = f"its host heard nothing of us for {self._lease:g} s" if report.by == "lease" else report.why
        self._finish(worker, why, is_wanted=report.by == "launcher")

    def called_off(self, report: CalledOff) -> None:
        """Take note that a worker will not be started (again) after all."""
        worker = self._find(report.name)
        never_ran = worker.exit is None
        worker.exit = worker.exit or Exit(report.name, 0, None, signal.SIGTERM, time.time(), report.attempt)
        self._finish(worker, is_wanted=never_ran)

    def lost(self, name: str, wait: float | None) -> None:
        """Take note that a worker is gone and nobody saw how; ``wait``: seconds until it starts again."""
        worker, now = self._find(name), time.time()
        worker.cut_off = False
        if worker.is_over:  # written off before; now there is somebody to start it again
            worker.returns_at = None if wait is None or worker.exit is None or not worker.exit.lost else now + wait
            return
        worker.exit = Exit(name, worker.pid or 0, None, signal.SIGKILL, now, worker.attempt, lost=True)
        worker.returns_at = None if wait is None else now + wait
        self._chronicle.add("lost", name=name, wait=wait)
        if wait is None:
            self._finish(worker)

    def _find(self, name: str) -> Worker:
        """Return a worker; one that an earlier launcher has added is new to us."""
        if name not in self.workers:
            self.expect(name)
        return self.workers[name]

    def _finish(self, worker: Worker, why: str = "", *, is_wanted: bool = False) -> None:
        """A worker has ended for good."""
        worker.returns_at = None
        ended, outcome = worker.exit, self.outcome
        if ended is None or ended.status == 0 or is_wanted or outcome.stopped_by is not None or outcome.aborted:
            return
        outcome.failures.append(ended)
        reason = f" ({why})" if why else ""
        self._note(f"{worker.name} failed: {ended.text}{reason}; {self.hopeful} still running")

    def _note(self, text: str) -> None:
        self._screen.watcher.show_note(text)
