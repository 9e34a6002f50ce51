"""What a process of a herd does: trains a vector of version numbers at a given pace, and obeys orders between steps.

It is a training loop as far as the bus can tell: a :class:`~dagrad_bus.handoff.BusThread` beside a thread that takes
steps; only there is no torch. Orders (:data:`ORDERS`) arrive on a :class:`~dagrad_bus.faults.lines.Line`.
"""

from __future__ import annotations

import base64
import ctypes
import gc
import os
import resource
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.errors import UsageError
from dagrad_bus.events import View
from dagrad_bus.faults.inspection import bus_state
from dagrad_bus.faults.lines import Answer, Line, ProcessGone
from dagrad_bus.faults.versions import Replica
from dagrad_bus.handoff import BusThread, loop_factory
from dagrad_bus.ids import NodeId, derive_node_id
from dagrad_bus.mailbox import coalesce
from dagrad_bus.settings import BeatSettings, ExchangeSettings, LinkSettings, Settings, TransportSettings
from dagrad_bus.topology.live import TopologySpec

KEPT = 4096
"""Newest durations and member events that are kept."""


def settings_of(given: dict[str, Any]) -> Settings:
    """Build settings from the JSON form: the nested groups are objects, paths and keys are text."""
    plain = dict(given)
    groups = {"exchange": ExchangeSettings, "link": LinkSettings, "beat": BeatSettings, "transport": TransportSettings}
    for name, kind in groups.items():
        plain[name] = kind(**plain.get(name, {}))
    plain["members"] = tuple(plain["members"])
    plain["key"] = plain.get("key", "").encode()
    plain["directory"] = Path(plain["directory"])
    return Settings(**plain)


def encode(array: NDArray[np.generic]) -> str:
    """Return the bytes of an array as text, for JSON."""
    return base64.b64encode(array.tobytes()).decode()


class Trainer:
    """The training thread of one worker.

    Args:
        bus: runs already.
        replica: what it trains.
        line: where orders come from.
        settings: of the bus.
        roster: names of all members, those of the replica's nodes.
    """

    def __init__(self, bus: BusThread, replica: Replica, line: Line, settings: Settings, roster: Sequence[str]) -> None:
        self.bus = bus
        self.replica = replica
        self.line = line
        self.names = dict(zip(replica.nodes, roster, strict=True))
        self.settings = settings
        self.pace = 0.05
        self.step = 0
        self.reading = True
        self.publishing = True
        self.per_frame = 0.0
        self.view = View(())
        self.events: deque[tuple[float, str, str]] = deque(maxlen=KEPT)
        self.swaps: deque[float] = deque(maxlen=KEPT)
        self.handoffs: deque[float] = deque(maxlen=KEPT)
        self.late: deque[float] = deque(maxlen=KEPT)
        self.quiet_exchanges = 0
        self._ended = False

    def run(self) -> Answer:
        """Step and obey until told to leave; return the order to leave."""
        due = time.monotonic()
        while True:
            wait = max(0.0, due - time.monotonic())
            if self.line.has_more or select.select([self.line], [], [], wait)[0]:
                order = self.line.receive()
                if order["op"] == "leave":
                    return order
                self._obey(order)
            now = time.monotonic()
            if now >= due:
                self.late.append(now - due)
                due = max(due + self.pace, now)
                self._one_step()

    def _obey(self, order: Answer) -> None:
        number, op = order.pop("id"), order.pop("op")
        try:
            answer = ORDERS[op](self, **order)
        except Exception as error:  # noqa: BLE001  # outermost line of an order: its sender is told
            answer = {"error": repr(error)}
        self.line.send({"id": number, **answer})

    def _one_step(self) -> None:
        replica, bus = self.replica, self.bus
        self.step += 1
        if self.reading:
            self._read()
        replica.update(self.step)
        replica.pace.tick(time.monotonic())
        bus.note_step(self.step, replica.pace.rate)
        outgoing = replica.plan(self.view.links, self.step) if self.publishing and self.reading else None
        if outgoing is None:
            return
        self.quiet_exchanges += replica.quiet
        before = time.perf_counter()
        taken = bus.publish(outgoing)
        self.handoffs.append(time.perf_counter() - before)
        if not taken:
            replica.refused(outgoing)

    def _read(self) -> None:
        before = time.perf_counter()
        view = self.bus.view()
        arrivals, superseded = coalesce(view.arrivals)
        self.bus.metrics.count("blocks_coalesced", superseded)
        self.view = view = replace(view, arrivals=arrivals)
        self.swaps.append(time.perf_counter() - before)
        now = time.monotonic()
        for event in view.events:
            self.events.append((now, event.name, event.kind))
        self.replica.note_links(view.links, view.outcomes)
        self.replica.receive(view.arrivals)
        if self.per_frame and view.arrivals:
            time.sleep(self.per_frame * len(view.arrivals))

    def _name(self, peer: NodeId) -> str:
        return self.names.get(peer, peer.hex())

    # Orders ----------------------------------------------------------------------------------------------------

    def order_state(self) -> Answer:
        """Say how things stand; times are ms, memory is MiB."""
        replica = self.replica
        return {
            "step": self.step,
            "rss": rss(),
            "counts": dict(replica.counts),
            "owed": replica.owed,
            "debts": {self._name(peer): len(replica.book.dirty_of(peer)) for peer in replica.addressed},
            "quiet_exchanges": self.quiet_exchanges,
            "clocks": replica.clocks.tolist(),
            "in_flight": {self._name(peer): len(replica.book.jobs_in_flight(peer)) for peer in replica.addressed},
            "from": {self._name(peer): count for peer, count in replica.taken.items()},
            "jobs": {self._name(peer): count for peer, count in replica.sent.items()},
            "swap_p99": _percentile(self.swaps, 99) * 1e3,
            "handoff_p99": _percentile(self.handoffs, 99) * 1e3,
            "late_p50": _percentile(self.late, 50) * 1e3,
            "late_p99": _percentile(self.late, 99) * 1e3,
            "late_max": max(self.late, default=0.0) * 1e3,
            "age_error": float(np.median(replica.age_errors)) if replica.age_errors else -1.0,
            "metrics": self.bus.snapshot(),
            **bus_state(self.bus, self.settings),
        }

    def order_events(self) -> Answer:
        """Hand over the member events seen since the last call: monotonic seconds, name, kind."""
        events = list(self.events)
        self.events.clear()
        return {"events": events}

    def order_set(self, **change: Any) -> Answer:
        """Change how this worker behaves: pace, reading, publishing, per_frame, quiet, frozen."""
        for name, value in change.items():
            owner: object = self.replica if name in {"quiet", "frozen"} else self
            if not hasattr(owner, name):
                raise UsageError(f"no such switch: {name}")
            setattr(owner, name, value)
            if name == "quiet":
                self.quiet_exchanges = 0
        return {}

    def order_forget_times(self) -> Answer:
        """Begin the measurement of durations anew."""
        for kept in (self.swaps, self.handoffs, self.late):
            kept.clear()
        self.replica.age_errors.clear()
        return {}

    def order_ledger(self) -> Answer:
        """Hand over the newest versions addressed and seen, by peer: int64[nB]."""
        replica = self.replica
        return {
            "tag": replica.tag,
            "addressed": {peer.hex(): encode(kept.versions) for peer, kept in replica.addressed.items()},
            "seen": {peer.hex(): [kept.tag, encode(kept.versions)] for peer, kept in replica.seen.items()},
        }

    def order_values(self) -> Answer:
        """Hand over the replica: float32[nB, 8]."""
        return {"values": encode(self.replica.values)}

    def order_hold_lock(self, duration: float) -> Answer:
        """Hold the interpreter lock: no Python code of this process runs meanwhile."""
        ctypes.PyDLL(None).usleep(int(duration * 1e6))
        return {}

    def order_wedge(self) -> Answer:
        """Never return from this step."""
        threading.Event().wait()
        return {}

    def order_fork(self, duration: float) -> Answer:
        """Fork a child that does nothing for a while, as a careless data loader would leave one."""
        pid = os.fork()
        if pid == 0:
            time.sleep(duration)
            os._exit(0)
        return {"pid": pid}

    def order_limit(self, name: str, spare: int) -> Answer:
        """Set the soft limit of ``NOFILE`` or ``DATA`` so that ``spare`` more descriptors or bytes can be had.

        ``DATA`` is memory that can be written to. ``AS`` would count 64 MiB and more of mere addresses that the C library
        sets aside for each thread that allocates for the first time.
        """
        kind = cast(int, getattr(resource, f"RLIMIT_{name}"))
        size = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        soft = spare + (max(map(int, os.listdir("/proc/self/fd"))) + 1 if name == "NOFILE" else size)
        resource.setrlimit(kind, (soft, resource.getrlimit(kind)[1]))
        return {"limit": soft, "open": len(os.listdir("/proc/self/fd"))}

    def order_rewire(self, **spec: Any) -> Answer:
        """Publish another graph."""
        return {"taken": self.bus.rewire(TopologySpec(**spec))}


ORDERS: dict[str, Callable[..., Answer]] = {
    name.removeprefix("order_"): getattr(Trainer, name) for name in dir(Trainer) if name.startswith("order_")
}
"""What a worker can be told; ``leave`` besides."""


def rss() -> float:
    """Return resident memory in MiB; what is shared with the nursery counts too."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / (1 << 20)


def _percentile(values: deque[float], percent: float) -> float:
    return float(np.percentile(values, percent)) if values else 0.0


def run(line: Line, config: Answer) -> None:
    """Be a worker until told to leave; say what was left behind."""
    settings = settings_of(config["settings"])
    loop_factory(settings.transport.loop)().close()  # what an event loop keeps as long as the process lives
    descriptors = set(open_descriptors())
    nodes = [derive_node_id(settings.run, name) for name in config["roster"]]
    tag = time.time_ns() // 1_000_000 % (1 << 20)
    replica = Replica(config["roster"].index(settings.name), nodes, tag, config["seed"], **config.get("replica", {}))
    try:
        with BusThread(settings, replica.layout) as bus:
            trainer = Trainer(bus, replica, line, settings, config["roster"])
            trainer.pace = config["pace"]
            line.send({"id": 0, "pid": os.getpid(), "endpoints": endpoints(bus)})
            order = trainer.run()
    except ProcessGone:
        return  # nobody is there to tell
    except Exception as error:  # noqa: BLE001  # outermost line of the process: whoever started it is told
        line.send({"id": 0, "error": repr(error)})
        return
    with suppress(ProcessGone):
        line.send({"id": order["id"], **leftovers(descriptors)})


def endpoints(bus: BusThread) -> tuple[str, str]:
    """Return inbox and beat as told to the peers."""
    transport: Any = bus._bus.transport
    return transport.inbox, transport.beat


def leftovers(before: set[str]) -> Answer:
    """Return the threads and descriptors that outlived the bus; 2 s for what ends by itself."""
    deadline = time.monotonic() + 2
    while True:
        gc.collect()
        threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
        left = {fd: target for fd, target in open_descriptors().items() if fd not in before}
        if not (threads or left) or time.monotonic() > deadline:
            return {"threads": threads, "descriptors": left}
        time.sleep(0.02)


def open_descriptors() -> dict[str, str]:
    """Return what each open descriptor points at; that of the listing itself is closed by then."""
    found: dict[str, str] = {}
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return found
