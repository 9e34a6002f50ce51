"""Collects the facts of a live run: the folder, each address from here, and what the workers say when asked."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from dagrad_bus.bus.approach import from_folder
from dagrad_bus.bus.survey import Picture, Sighting, open_survey
from dagrad_bus.errors import NobodyAnswers, UsageError
from dagrad_bus.ids import NodeId
from dagrad_bus.messages import LinkPhase
from dagrad_bus.rendezvous import find_graph, look_up, names_in
from dagrad_bus.topology.live import adjacency
from dagrad_bus.wire import MemberState
from dagrad_bus.workers.launch.examination.live import RunFacts, WorkerFacts
from dagrad_bus.workers.launch.folder import RunFolder
from dagrad_bus.workers.launch.journal import Record, Tail

_WORKING = frozenset({LinkPhase.UP})
_WEDGED = 2
"""State in a heartbeat."""
_OBSERVE = 4.0
"""Seconds at most to listen to all workers; four heartbeats."""


def collect_run(path: Path, timeout: float) -> RunFacts:
    """Return the facts of the run in ``path``.

    Args:
        path: its folder.
        timeout: seconds that a worker has to answer.

    Raises:
        UsageError: no run folder.
    """
    folder = RunFolder(path.absolute())
    run = folder.read_run()
    roster = [str(name) for name in run["workers"]]
    names = list(dict.fromkeys([*roster, *names_in(folder.path)]))
    records = {name: _read_last(folder.journal(name), name) for name in names}
    failures = _read_failures(folder.path / "events.jsonl")
    picture = None if run.get("ended") else asyncio.run(_observe(folder.path, max(timeout, 1.0)))
    workers = [_worker(folder, name, records[name], picture) for name in names]
    workers = _try_addresses(workers, timeout)
    return RunFacts(
        path=str(path),
        run=str(run["run"]),
        told_by=picture.told_by if picture else "",
        over="ended" in run,
        key_mode=stat.S_IMODE(folder.key.stat().st_mode) if folder.key.exists() else 0o600,
        tables=len(picture.digests) if picture else 1,
        graphs=len(picture.spec_versions) if picture else 1,
        waited=max(timeout, 1.0) + _OBSERVE,
        workers=[_with(worker, launched=worker.name in roster, failure=failures.get(worker.name, ""))
                 for worker in workers],
    )  # fmt: skip


def _with(worker: WorkerFacts, **values: Any) -> WorkerFacts:
    return replace(worker, **values)


async def _observe(path: Path, patience: float) -> Picture | None:
    try:
        async with open_survey(from_folder(path), patience) as survey:
            return await survey.observe(_OBSERVE, links=True)
    except NobodyAnswers:
        return None


def _read_last(path: Path, name: str) -> Record:
    record = Record(name)
    for line in Tail(path).read_lines(final=True):
        record.add(line, keep=False)
    return record


def _read_failures(path: Path) -> dict[str, str]:
    """Return how workers ended that failed and are not started again."""
    found: dict[str, str] = {}
    with suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            with suppress(ValueError, KeyError, TypeError):
                event: dict[str, Any] = json.loads(line)
                if event["event"] == "started":
                    found.pop(event["name"], None)
                elif event["event"] == "exited" and event["status"] and event["restart_in"] is None:
                    found[event["name"]] = str(event["how"])
    return found


def _worker(folder: RunFolder, name: str, record: Record, picture: Picture | None) -> WorkerFacts:
    address = look_up(folder.path, name)
    seen = next((one for one in picture.members if one.record.name == name), None) if picture else None
    state = _state(seen, record)
    beat = seen.beat if seen is not None else None
    last = float(record.last.get("time", record.start.get("time", 0.0)))
    quiet = max(0.0, time.time() - last) if last and not record.ended else None
    up, expected, missing = _links(folder.path, seen, picture)
    return WorkerFacts(
        name=name,
        state=state,
        inbox=address.inbox if address else "",
        heard=seen.is_heard if seen is not None and seen.is_asked else None,
        wedged=beat is not None and beat.state == _WEDGED,
        lag_ms=beat.lag_ms if beat is not None else 0,
        step=int(beat.step) if beat is not None else record.step or None,
        quiet=quiet,
        clock_ahead=_clock_ahead(folder.journal(name), last),
        links=up,
        expected_links=expected,
        missing=missing,
        version=str(record.start.get("version", "")),
    )


def _state(seen: Sighting | None, record: Record) -> str:
    if seen is not None and seen.record.epoch and seen.record.state is not MemberState.LEFT:
        return seen.record.state.name.lower()
    if record.ended:
        return "ended"
    return "left" if seen is not None and seen.record.state is MemberState.LEFT else "unknown"


def _clock_ahead(journal: Path, last: float) -> float:
    """A line cannot arrive before it was written: by how much it seems to, the writer's clock is ahead."""
    try:
        return max(0.0, last - journal.stat().st_mtime)
    except OSError:
        return 0.0


def _links(path: Path, seen: Sighting | None, picture: Picture | None) -> tuple[int | None, int | None, list[str]]:
    """Return working and expected links of a worker, and with whom one is missing."""
    if seen is None or picture is None or not seen.is_present:
        return None, None, []
    present = {one.record.node: one.record.name for one in picture.present if one.record.epoch}
    if seen.record.node not in present:
        return None, None, []
    expected = _neighbours(path, seen.record.node, present, picture)
    if expected is None:
        return None, None, []
    if seen.links is None:
        return None, len(expected), []
    up = {link.peer for link in seen.links if link.phase in _WORKING}
    missing = sorted(present[node] for node in expected - up)
    return len(expected & up), len(expected), missing


def _neighbours(path: Path, node: NodeId, present: Mapping[NodeId, str], picture: Picture) -> set[NodeId] | None:
    spec = picture.spec
    try:
        graph = find_graph(path, spec.graph) if spec.graph else None
        return set(adjacency(present, spec, graph)[node])
    except UsageError:
        return None  # a written graph that is not here


def _try_addresses(workers: list[WorkerFacts], timeout: float) -> list[WorkerFacts]:
    """Connect to each worker that should be there, and close again: a peer that says nothing harms nobody."""

    def attempt(worker: WorkerFacts) -> WorkerFacts:
        if not worker.inbox or worker.state in {"ended", "left"}:
            return worker
        host, _, port = worker.inbox.removeprefix("tcp://").rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout).close()
        except OSError as error:
            return _with(worker, error=error.strerror or str(error))
        return worker

    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(attempt, workers))
