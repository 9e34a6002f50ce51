"""One step boundary, the part that is the same for every rule: links, ages, frames, metrics.

An :class:`Exchange` reads the port once a step (:meth:`receive`), says what a frame may hold and to whom it goes
(:meth:`plan`), and hands it over (:meth:`ship`). Rules with a server use :meth:`take`, :meth:`post` and, where they are
synchronous by nature, :meth:`wait` instead. What the values mean is the rule's affair. It touches no tensor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from dagrad_bus.affinity import Affinity
from dagrad_bus.attach.plan import NONE, Indices, Plan, Turn, buffers_of, whose_turn
from dagrad_bus.attach.port import Port
from dagrad_bus.blocks import Layout, Stripe, frame_budget
from dagrad_bus.book import Book
from dagrad_bus.checksum import crc32c
from dagrad_bus.codec import Value, fits_f16, to_wire
from dagrad_bus.events import NO_NEWS, Arrival, LinkState, MemberEvent, Outcome, Outgoing, Selection, View
from dagrad_bus.ids import JobId, NodeId, Step
from dagrad_bus.mailbox import coalesce
from dagrad_bus.mixing import AgeTracker, StepClock, Version, arrival_age, discount, version_weight
from dagrad_bus.peers import Explorer, make_choice
from dagrad_bus.settings import ExchangeSettings
from dagrad_bus.wire import Kind

SKETCH_PERIOD = 1.0
"""Seconds between two sketches: heartbeats carry them."""
FRAME_OVERHEAD = 8
"""Bytes a block that index and scale may take, at most."""
VALUES = {"f32": Value.F32, "f16": Value.F16, "bf16": Value.BF16, "int8": Value.INT8}
WIDTHS = {"f32": 4, "f16": 2, "bf16": 2, "int8": 1}

FEW = 4096
"""Elements that a frame of buffers may hold whatever the density."""

Rows = NDArray[np.float32]
Wire = tuple[Value, NDArray[np.generic], Rows | None]
"""Type, values [n, B] and scales of a frame, as :func:`~dagrad_bus.codec.to_wire` makes them."""


@dataclass(slots=True)
class Pauses:
    """What a rule that waits and the owner of its exchange ask of each other."""

    check: Callable[[], None] = lambda: None
    """The owner's: called while a rule waits; raises what must stop the program."""
    finish: Callable[[], None] = lambda: None
    """The rule's: called before the worker leaves without an error; it may wait until it is heard, for a bounded time."""


class ExchangeState(TypedDict):
    """What a checkpoint keeps of an exchange."""

    frontier: int
    exchanges: int
    jobs: int
    tau: float
    peers: dict[str, object]


class Exchange:
    """Plans and ships the frames of one worker.

    Args:
        layout: of the replica.
        settings: density, ages, wire type, seed.
        port: the bus.
        kinds: frame kinds that the rule mixes; others are dropped and counted.
        clock: monotonic seconds.
        max_frame: bytes of a payload at most.
        who: this worker's name, part of the seed.
    """

    spared: frozenset[NodeId] = frozenset()
    """Peers that :meth:`plan` leaves alone: their link is wanted for something else."""
    coalesces: bool = True
    """Whether newer values of a link take the place of older ones that wait; False where each frame is owed an answer."""
    settled: bool = True
    """False for a moment, while it is not known yet whether this worker comes so late that its replica will be replaced."""
    ready: frozenset[NodeId] = frozenset()
    """Peers whose link takes a frame now, as :meth:`take` found it; :meth:`post` crosses them off."""

    def __init__(
        self,
        layout: Layout,
        settings: ExchangeSettings,
        port: Port,
        kinds: frozenset[Kind],
        clock: Callable[[], float],
        max_frame: int = 8 << 20,
        who: str = "",
    ) -> None:
        self.settings = settings
        self.metrics = port.metrics
        self.max_frame = max_frame
        self.pauses = Pauses()
        self._layout = layout
        self._port = port
        self._kinds = kinds
        self._clock = clock
        self._book = self._new_book()
        self._ages = AgeTracker(settings.tau)
        self._steps = StepClock()
        self._rng = np.random.default_rng(
            [settings.seed, int.from_bytes(layout.digest, "little"), crc32c(who.encode())]
        )
        self.affinity = Affinity()
        self._choice = make_choice(settings.choice, self.affinity, self._rng)
        self._explorer = Explorer(self._choice, settings.explore)
        self._news = NO_NEWS
        self._sketched_at = -np.inf
        self._most, self._most_exact = (
            max(1, max_frame // (layout.block * width + FRAME_OVERHEAD)) for width in (WIDTHS[settings.wire], 4)
        )
        self.set_density(settings.density)
        self.links: tuple[LinkState, ...] = ()
        """Links that are up, by peer, as the port was read last."""
        self._integers: list[Arrival] = []
        self._sweeps: list[Arrival] = []
        self.events: deque[MemberEvent] = deque()
        """What happened to members since the owner of the exchange last looked."""
        self.watch: Callable[[View, float], None] = lambda view, now: None
        """Shown each view and its time, before its arrivals are weighed."""
        self._exchanges = 0
        self._jobs = 0

    @property
    def tau(self) -> float:
        """The age in steps up to which a version counts fully."""
        return self._ages.tau

    @property
    def rate(self) -> float:
        """Own steps a second; 0 before the second step."""
        return self._steps.rate

    @property
    def budget(self) -> int:
        """Blocks of one frame."""
        return self._budget

    def set_density(self, density: float) -> None:
        """Let frames hold another share of the model from now on; ``max_frame`` bytes at most, as ever."""
        total, stripe = frame_budget(density, self._layout.parameter_blocks, self.settings.refresh)
        self._budget, self._stripe_size = min(total, self._most), min(stripe, total, self._most)

    @property
    def scores_peers(self) -> bool:
        """Whether somebody asks in which direction peers move."""
        return self.settings.choice != "random"

    def tick(self) -> None:
        """Note that a local step has ended."""
        self._steps.tick(self._clock())

    def receive(self) -> list[Version]:
        """Swap out what waits at the port: enter outcomes, weigh the arrivals that the rule mixes, oldest first."""
        view, arrivals, ages = self._swap_out()
        for outcome in view.outcomes:
            self._book.resolved(outcome)
        self.metrics.gauge("tau", self.tau)
        self.metrics.gauge("blocks_owed", self._book.dirty_count)
        return [self._weigh(arrival, age) for arrival, age in zip(arrivals, ages, strict=True)]

    def take(self) -> View:
        """Swap out what waits, for rules whose frames are parts of dense vectors: nothing is weighed, no book is kept.

        The view holds the frames of values that the rule takes; integer buffers are no part of such vectors.
        """
        view, arrivals, _ = self._swap_out()
        self.metrics.count("frames_dropped.kind", len(self.take_integers()))
        self.ready = frozenset(link.peer for link in self.links if link.ready) - self.spared
        return replace(view, arrivals=tuple(arrivals))

    def now(self) -> float:
        """Return monotonic seconds."""
        return self._clock()

    def wait(self, seconds: float) -> None:
        """Let time pass until something may have arrived, ``seconds`` at most. For rules that wait by nature.

        Raises:
            BusError: what must stop the program.
        """
        self.pauses.check()
        self._port.wait(seconds)

    def _swap_out(self) -> tuple[View, list[Arrival], list[float]]:
        """Read the port; return the view, the frames of it that the rule takes, and their ages in steps."""
        view = self._port.view()
        arrived, superseded = coalesce(view.arrivals) if self.coalesces else (view.arrivals, 0)
        self.metrics.count("blocks_coalesced", superseded)
        view = replace(view, arrivals=arrived)
        self.links = tuple(sorted(view.links, key=lambda link: link.peer))
        self._book.sync(view.links)
        self._hear(view)
        now = self._clock()
        self.watch(view, now)
        arrivals = [arrival for arrival in view.arrivals if self._admit(arrival)]
        ages = [arrival_age(arrival, now, self.rate) for arrival in arrivals]
        self._ages.observe(ages)
        for age in ages:
            self.metrics.observe("age_steps", age)
        self.metrics.gauge("links", len(self.links))
        return view, arrivals, ages

    def _hear(self, view: View) -> None:
        """Take what heartbeats said of other members, and say with whom of them a link is wanted."""
        self.events.extend(view.events)
        if view.news is not self._news:
            self._news = view.news
            known = {**view.others, **view.news}
            for peer, news in known.items():
                self.affinity.heard(peer, news.sketch, news.step)
            self.affinity.keep(known.keys() | {link.peer for link in view.links})
        if self.settings.explore:
            neighbours = {link.peer for link in view.links}.difference(self._explorer.wanted)
            if self._explorer.renew(sorted((view.others.keys() | view.news.keys()) - neighbours), self._clock()):
                self._port.explore(self._explorer.wanted)
                self.metrics.count("members_explored", len(self._explorer.wanted))

    def share_sketch(self, step: int, sketch: Callable[[], bytes]) -> None:
        """Make a sketch of the own change by ``sketch()`` and hand it to the bus, once a second at most."""
        now = self._clock()
        if now - self._sketched_at >= SKETCH_PERIOD:
            self._sketched_at = now
            made = sketch()
            self.affinity.sketched(made)
            self._port.note_sketch(step, made)

    def _admit(self, arrival: Arrival) -> bool:
        """Whether the rule mixes this frame; integer frames are set apart, others counted as dropped."""
        indices, values = arrival.selection.indices, arrival.selection.values
        first = self._layout.blocks if arrival.value_type is Value.I64 else 0
        last = first + self._layout.integer_blocks if first else self._layout.blocks
        shaped = values.shape == (len(indices), self._layout.block)
        if not shaped or not len(indices) or indices[0] < first or indices[-1] >= last:
            self.metrics.count("frames_dropped.layout")
            return False
        if arrival.kind is Kind.SWEEP and self._kinds:
            self._sweeps.append(arrival)
            return False
        if arrival.kind not in self._kinds:
            self.metrics.count("frames_dropped.kind")
            return False
        if first:
            self._integers.append(arrival)
        return not first

    def _weigh(self, arrival: Arrival, age: float) -> Version:
        settings = self.settings
        if arrival.kind is Kind.GRADIENT:
            weight = discount(age, self.tau, settings.age_power)
        else:
            weight = version_weight(settings.w0, age, self.tau, settings.age_power)
        values = np.asarray(arrival.selection.values, np.float32)
        return Version(arrival.selection.indices, values, weight, arrival.peer)

    def _new_book(self, frontier: int = 0) -> Book:
        """Return a book of the parameters: buffers come again unasked. It must have a block, where there are only buffers too."""
        return Book(max(1, self._layout.parameter_blocks), frontier)

    def take_integers(self) -> list[Selection]:
        """Return the integer frames received since the last call."""
        taken, self._integers = self._integers, []
        return [arrival.selection for arrival in taken]

    def take_sweeps(self) -> list[Arrival]:
        """Return the frames of state transfers received since the last call, oldest first."""
        taken, self._sweeps = self._sweeps, []
        return taken

    def next_job(self) -> JobId:
        """Return a number that no frame had before."""
        self._jobs += 1
        return JobId(self._jobs)

    def plan(self, *, repeats: bool, integers: bool = False) -> Plan | None:
        """Say what the next frame holds and who gets it; None where no selected link is ready.

        Args:
            repeats: whether the frame has a refresh stripe and dirty blocks, and buffers their turn (values do, increments
                do not).
            integers: whether integer buffers have a turn as well.
        """
        links = [link for link in self.links if link.peer not in self.spared]
        ready = tuple(link.peer for link in links if link.ready)
        if not ready:
            self.metrics.count("exchanges_without_link", int(bool(links)))
            return None
        selected = tuple(link.peer for link in links)
        if self.settings.fanout:
            selected = ready = self._choice.choose(ready, self.settings.fanout)
        self._exchanges += 1
        turn = whose_turn(self._layout, self._exchanges, integers=integers) if repeats else Turn.PARAMETERS
        if turn is not Turn.PARAMETERS:
            most = min(max(self._budget, FEW // self._layout.block), self._most_exact)
            buffers = buffers_of(self._layout, self._exchanges, most) if turn is Turn.BUFFERS else NONE
            return Plan(ready, selected, self._budget, turn, Stripe(0, 0, 1), NONE, buffers)
        stripe = self._book.stripe(ready, self._stripe_size if repeats else 0)
        room = min(int(self._budget * self.settings.dirty), self._budget - stripe.size)
        dirty = self._book.dirty_blocks(ready, room) if repeats else NONE
        if len(dirty):
            dirty = dirty[(dirty - stripe.start) % stripe.total >= stripe.size]
        return Plan(ready, selected, self._budget, turn, stripe, dirty, NONE)

    def to_wire(self, values: Rows, *, exactly: bool = False) -> Wire:
        """Convert finite float32[n, B] to the wire type of the settings; bf16 where f16 does not reach.

        Args:
            values: what travels.
            exactly: whether small values matter as much as large ones: bf16 then, unless the settings say f32.
        """
        value = VALUES[self.settings.wire]
        if exactly and value is not Value.F32:
            value = Value.BF16
        if value is Value.F16 and not fits_f16(values):
            value = Value.BF16
            self.metrics.count("frames_widened")
        if value is Value.BF16:  # as codec.to_wire, at a tenth of its time
            bits: NDArray[np.generic] = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy()
            return value, bits.view(np.uint16), None
        return value, *to_wire(values, value)

    def ship(self, plan: Plan, indices: Indices, wire: Wire, kind: Kind, step: int) -> bool:
        """Hand a frame over and enter it into the book; False where the bus had no room.

        Frames of gradients and of buffers are never repeated, so the book does not hear of them: the former must not be, the
        latter come again anyway.
        """
        job = self.next_job()
        value, values, scales = wire
        chosen, parts = Selection(indices, values, scales), (plan.stripe.size, len(plan.dirty))
        outgoing = Outgoing(job, plan.ready, kind, value, chosen, Step(step), self.rate, self._clock(), *parts)
        booked = kind is Kind.STATE and plan.turn is Turn.PARAMETERS
        if booked:
            self._book.planned(job, plan.ready, plan.selected, indices, plan.stripe)
        taken = self._port.publish(outgoing)
        if not taken:
            self.metrics.count("frames_refused")
            for peer in plan.ready if booked else ():
                self._book.resolved(Outcome(job, peer, accepted=False))
            return False
        self.metrics.count("frames_planned")
        self.metrics.count("blocks_sent", len(indices) * len(plan.ready))
        self.metrics.count("blocks_dirty", len(plan.dirty) * len(plan.ready))
        return True

    def post(
        self,
        peers: tuple[NodeId, ...],
        indices: Indices,
        rows: NDArray[np.generic],
        kind: Kind,
        step: int,
        scales: Rows | None = None,
    ) -> JobId | None:
        """Hand over a frame that the book does not hear of; None where the bus had no room.

        Args:
            peers: each of them in :attr:`ready`.
            indices: blocks, rising.
            rows: float32[n, B], finite; int8[n, B] with float32[n] ``scales``.
            kind: what the receivers' rule takes it for.
            step: of the values.
            scales: of int8.
        """
        job, now, value = self.next_job(), self._clock(), Value.F32 if scales is None else Value.INT8
        frame = Outgoing(job, peers, kind, value, Selection(indices, rows, scales), Step(step), self.rate, now)
        if not self._port.publish(frame):
            self.metrics.count("frames_refused")
            return None
        self.ready = self.ready.difference(peers)
        self.metrics.count("frames_planned")
        self.metrics.count("blocks_sent", len(indices) * len(peers))
        return job

    def state_dict(self) -> ExchangeState:
        """Return cursors, counters, tau and the state of chance."""
        chance = dict(self._rng.bit_generator.state)
        return ExchangeState(
            frontier=self._book.frontier, exchanges=self._exchanges, jobs=self._jobs, tau=self.tau, peers=chance
        )

    def load_state_dict(self, state: ExchangeState) -> None:
        """Restore what :meth:`state_dict` returned; what was on its way is owed to nobody."""
        self._book = self._new_book(state["frontier"])
        self._exchanges, self._jobs = state["exchanges"], state["jobs"]
        self._rng.bit_generator.state = state["peers"]
        self._ages = AgeTracker(self.settings.tau)
        self._ages.observe([state["tau"]])
