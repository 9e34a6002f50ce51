"""What is wrong with a live run, as seen from here. Pure functions of facts that ``live_facts`` collects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dagrad_bus.workers.launch.examination.host_checks import CLOCK_FAULT
from dagrad_bus.workers.launch.examination.judgement import Fault, level

QUIET = 10.0
"""Seconds without a journal line: twenty are due in that time."""
LAG = 1000
"""Milliseconds that a worker's loop is late: a third of the shortest silence that raises suspicion."""
_SECRET = 0o077


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFacts:
    """One worker of a live run."""

    name: str
    state: str
    """``alive``, ``suspect``, ``dead``, ``left`` as the others believe; ``ended`` by its own journal; ``unknown``."""
    launched: bool = True
    """Whether the roster names it; otherwise it joined later."""
    inbox: str = ""
    """Endpoint it published; empty: none."""
    error: str = ""
    """Why nothing can be connected to there, from here."""
    heard: bool | None = None
    """Whether it sent a heartbeat or answered; None: not asked."""
    wedged: bool = False
    lag_ms: int = 0
    step: int | None = None
    quiet: float | None = None
    """Seconds since its last journal line; None: there is none."""
    clock_ahead: float = 0.0
    """Seconds by which its journal's times are later than the arrival of the lines here, at least."""
    links: int | None = None
    """Links to neighbours that work; None: not known."""
    expected_links: int | None = None
    missing: Sequence[str] = ()
    """Neighbours without a working link."""
    failure: str = ""
    """How its process ended, if it failed and is not started again."""
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """A live run as seen from here."""

    path: str
    run: str
    told_by: str = ""
    """Who told the member table; empty: nobody answered."""
    over: bool = False
    """Whether the launcher has noted the end of the run."""
    key_mode: int = 0o600
    tables: int = 1
    """Different member tables that go round."""
    graphs: int = 1
    """Different versions of the graph."""
    waited: float = 0.0
    """Seconds given to the workers to answer."""
    workers: Sequence[WorkerFacts] = ()

    @property
    def is_reached(self) -> bool:
        """Whether any worker answered."""
        return bool(self.told_by)


def check_run(facts: RunFacts) -> list[Fault]:
    """Return what is wrong."""
    found: list[Fault] = []
    if facts.key_mode & _SECRET:
        what = f"others on this host can read the run's key (mode {facts.key_mode:o})"
        found.append(Fault("fault", "key", facts.path, what, f"chmod 600 {facts.path}/key"))
    if facts.over:
        return [*found, Fault("fault", "run", facts.path, "this run has ended", f"dagrad report {facts.path}")]
    if not facts.is_reached:
        what = f"no worker answered within {facts.waited:.0f} s"
        found.append(Fault("fault", "run", facts.path, what, f"is it still running? see {facts.path}/logs"))
    for worker in facts.workers:
        found += _check_worker(worker, facts)
    found += _check_pairs(facts.workers)
    found += _check_agreement(facts)
    return found


def _check_worker(worker: WorkerFacts, facts: RunFacts) -> Iterator[Fault]:
    log = f"see {facts.path}/logs/{worker.name}.log"
    back = f"bring it back: dagrad join --name {worker.name} {facts.path} COMMAND"
    if worker.failure:
        yield Fault("fault", "ended", worker.name, f"it ended: {worker.failure}", f"{log}; {back}")
        return
    if worker.state in {"ended", "left"}:
        return
    if not worker.inbox:
        yield Fault("fault", "address", worker.name, "it has not published an address", f"{log}: did it call attach?")
        return
    if worker.error:
        what = f"{worker.inbox} cannot be reached from here ({worker.error})"
        repair = f"open the ports (dagrad doctor --hostfile tries them), or an addr= that leads there; {log}"
        yield Fault("fault", "port", worker.name, what, repair)
    elif worker.heard is False:
        what = f"no heartbeat and no answer within {facts.waited:.0f} s, though its port is open"
        yield Fault("fault", "silent", worker.name, what, f"{log}; kill and restart its process if it hangs")
    if facts.is_reached:
        yield from _check_state(worker, back)
    if worker.state != "dead":  # that says it all
        yield from _check_health(worker, log)


def _check_state(worker: WorkerFacts, back: str) -> Iterator[Fault]:
    if worker.state == "dead":
        yield Fault("fault", "dead", worker.name, "the others believe it dead, and it did not say goodbye", back)
    elif worker.state == "unknown" and worker.launched:
        what = "it was launched, and the others never heard of it"
        yield Fault("fault", "absent", worker.name, what, "can the others reach its address? dagrad doctor --hostfile")
    elif worker.state == "suspect":
        what = "the others suspect it: its heartbeats do not arrive"
        yield Fault("warning", "suspect", worker.name, what, "look again in 10 s: it is refuted or dead then")


def _check_health(worker: WorkerFacts, log: str) -> Iterator[Fault]:
    if worker.wedged:
        what = "its training takes no step"
        yield Fault("fault", "wedged", worker.name, what, f"{log}; dagrad run --restart-wedged restarts such workers")
    if worker.lag_ms > LAG:
        what = f"its loop is {worker.lag_ms} ms late"
        yield Fault("warning", "lag", worker.name, what, "fewer workers on its host, or smaller OMP_NUM_THREADS")
    if worker.quiet is not None and worker.quiet > QUIET:
        grade = level(not worker.heard)
        what = f"nothing in its journal for {worker.quiet:.0f} s, and no end"
        yield Fault(grade, "silent", worker.name, what, f"is the disk full, the launcher gone? {log}")
    if worker.clock_ahead > CLOCK_FAULT:
        what = f"its clock is at least {worker.clock_ahead:.1f} s ahead of the one here"
        yield Fault("fault", "clock", worker.name, what, "on its host: chronyc makestep (or: timedatectl set-ntp true)")


def _check_pairs(workers: Sequence[WorkerFacts]) -> Iterator[Fault]:
    """Report neighbours without a link, each pair once; of those that are gone the worker's own fault tells."""
    there = {worker.name for worker in workers if worker.state == "alive"}
    told: defaultdict[str, list[str]] = defaultdict(list)
    for worker in workers:
        for other in worker.missing:
            if worker.name in there and other in there and worker.name not in told.get(other, ()):
                told[worker.name].append(other)
    for name, others in told.items():
        what = "neighbours without a working link"
        repair = "can these two reach each other? dagrad doctor --hostfile tries both ways"
        yield Fault("fault", "link", f"{name} -> {', '.join(others)}", what, repair)


def _check_agreement(facts: RunFacts) -> Iterator[Fault]:
    if facts.graphs > 1:
        what = f"{facts.graphs} versions of the graph go round"
        yield Fault("warning", "graph", facts.path, what, "look again in 10 s; a cut between the workers keeps it so")
    if facts.tables > 1:
        what = f"{facts.tables} different member tables go round"
        yield Fault("warning", "members", facts.path, what, "look again in 30 s; a cut between the workers keeps it so")
    versions = sorted({worker.version for worker in facts.workers if worker.version})
    if len(versions) > 1:
        what = f"workers of dagrad-bus {', '.join(versions)} in one run"
        yield Fault("warning", "version", facts.path, what, "install one version on all hosts")
