"""Workers, links and cards of a made-up cluster whose rules never wait: events in virtual time, nobody learns.

Cards, flights and credit are those of :mod:`dagrad_bus.lab.network`, kept so small that 10 000 workers fit: one event for
a step and one for a frame. A frame waits until its sender's card is free, flies, and waits for the receiver's card; what
the receiver will do with it is known then, so its arrival and its receipt are no events but moments that the next look
at the link finds. What a rule does at a step boundary is a :class:`Manner`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dagrad_bus.lab.parcels import Parcels
from dagrad_bus.lab.scenario import AgeTally, Scenario, Timing, mean_of
from dagrad_bus.sim.world import World
from dagrad_bus.workers.launch.forecast import ack_size, heartbeat_size

PERIOD_SHARE = 1 / 16
"""Share of a new step in the moving average of a worker's step time, by which ages are counted."""


@dataclass(slots=True, eq=False)
class Letter:
    """One frame; nobody writes to it."""

    size: float
    made: float
    """When the values in it were."""
    kind: int
    """What the rule takes it for."""
    part: int
    """Of the vector it belongs to."""
    life: int
    """Of the link; frames of an earlier one are lost."""


@dataclass(slots=True, eq=False)
class Link:
    """One direction between two workers."""

    sender: Worker
    receiver: Worker
    up: bool = True
    life: int = 0
    flying: int = 0
    """Frames without a receipt."""
    back: Link | None = None
    """The other direction."""
    receipts: list[float] | None = None
    """Moments at which receipts arrive, of frames that flying still counts."""
    landed: list[tuple[float, Letter]] | None = None
    """Frames that the receiver has not taken, and when each is there as a whole."""

    def cut(self) -> None:
        """Lose what is on its way."""
        if self.landed:
            self.receiver.held -= sum(letter.size for _, letter in self.landed)
        self.up, self.flying, self.receipts, self.landed = False, 0, None, None
        self.life += 1


class Worker:
    """One worker: its cards, its links, its account."""

    __slots__ = (
        "absent", "alone", "began", "contacts", "drawn", "ends_at", "held", "incoming", "index", "is_awaited", "is_slow",
        "outgoing", "period", "present", "receive_free", "rng", "send_free", "sent", "since", "skipped", "started",
        "steps", "wanted",
    )  # fmt: skip

    def __init__(self, index: int, seed: int, *, is_slow: bool) -> None:
        self.index, self.is_slow = index, is_slow
        self.rng = np.random.default_rng([seed, 12, index])
        self.outgoing: list[Link] = []
        self.incoming: list[Link] = []
        self.send_free = self.receive_free = 0.0
        self.held = 0.0
        """Bytes that wait for this worker."""
        self.is_awaited = not is_slow
        """Whether the run goes on until this one has done its steps."""
        self.present = True
        self.steps = 0
        self.began = self.started = 0.0
        """When the present step, and when measuring began."""
        self.drawn = 0.0
        """Seconds that the present step computes."""
        self.period = 0.0
        """Seconds of a step, a moving average."""
        self.since: float | None = None
        """When it left, as long as it is away."""
        self.absent = 0.0
        self.ends_at = 0.0
        """Last measured boundary."""
        self.alone = self.sent = 0.0
        """Measured: seconds the steps would take alone; bytes."""
        self.contacts = self.wanted = self.skipped = 0

    @property
    def elapsed(self) -> float:
        """Seconds measured."""
        return self.ends_at - self.started - self.absent


class Manner(Protocol):
    """What one rule does."""

    def boundary(self, worker: Worker) -> float:
        """Take what is there, send what is due; return the bytes that cost the training thread time."""
        ...

    def lost(self, worker: Worker, peer: Worker) -> None:
        """Forget what is under way between ``worker`` and ``peer``, which has left."""
        ...


def draw_leavers(scenario: Scenario, rng: np.random.Generator) -> list[int]:
    """Return who will leave and come back: never worker 0, which serves where a rule has a server."""
    count = round(scenario.churn * (scenario.workers - 1))
    return [1 + int(index) for index in rng.permutation(scenario.workers - 1)[:count]] if count else []


class Crowd:
    """All of them.

    Args:
        scenario: what is timed.
        near: the peers of each worker, by index; symmetric.
        parcels: what an exchange weighs.
    """

    def __init__(self, scenario: Scenario, near: Sequence[Sequence[int]], parcels: Parcels) -> None:
        self.scenario, self.parcels = scenario, parcels
        self.world = World(scenario.seed)
        self.ages = AgeTally()
        self.rng = np.random.default_rng([scenario.seed, 11])
        costs = scenario.costs
        self.workers = [
            Worker(index, scenario.seed, is_slow=costs.slowdown.get(index, 1.0) > 1)
            for index in range(scenario.workers)
        ]
        links: dict[tuple[int, int], Link] = {}
        for worker, peers in zip(self.workers, near, strict=True):
            for peer in peers:
                link = links[worker.index, peer] = Link(worker, self.workers[peer])
                link.back = links.get((peer, worker.index))
                if link.back is not None:
                    link.back.back = link
                worker.outgoing.append(link)
                self.workers[peer].incoming.append(link)
        self._receipt = ack_size()
        self._limits = limits = scenario.link
        self._window = min(limits.window, max(2, int(limits.window_bytes / max(1.0, parcels.size))))
        self._manner: Manner | None = None
        self._target = scenario.warmup + scenario.steps
        self._left = 0
        self._typical = max(scenario.pace, costs.compute)

    # Time --------------------------------------------------------------------------------------------------------

    def run(self, manner: Manner) -> Timing:
        """Let everybody train until all but stragglers and those that were away have done their steps."""
        self._manner = manner
        for worker in self.workers:
            self.world.at(self._typical * worker.rng.random(), self._begin, worker)
        for worker in self._leaving():
            worker.is_awaited = False
            self.world.at(self._typical * self._target * float(self.rng.random()), self._leave, worker)
        if not any(worker.is_awaited for worker in self.workers):
            self.workers[0].is_awaited = True
        self._left = sum(worker.is_awaited for worker in self.workers)
        while self._left:
            self.world.run(self.world.now + self._typical)
        return self._account()

    def _leaving(self) -> list[Worker]:
        return [self.workers[index] for index in draw_leavers(self.scenario, self.rng)]

    def _begin(self, worker: Worker, _: object) -> None:
        """Begin a step now."""
        if worker.present:
            worker.began = self.world.now
            worker.drawn = self.scenario.costs.step_time(worker.index, worker.rng)
            self.world.after(worker.drawn, self._boundary, worker, worker.began)

    def _is_measured(self, worker: Worker) -> bool:
        """Whether the step that ends now counts."""
        return self.scenario.warmup < worker.steps <= self._target

    def _boundary(self, worker: Worker, began: float) -> None:
        """End a step: exchange, and begin the next one."""
        if not worker.present or began != worker.began:
            return  # it has left since
        scenario, now = self.scenario, self.world.now
        assert self._manner is not None
        worker.steps += 1
        load = self._manner.boundary(worker)
        cost = scenario.costs.boundary_time(round(load)) if self.parcels.parts else 0.0
        following = max(began + self._pace(worker), now + cost)
        self._note(worker, following)
        worker.period += (following - began - worker.period) * (PERIOD_SHARE if worker.steps > 1 else 1.0)
        worker.began = following
        worker.drawn = scenario.costs.step_time(worker.index, worker.rng)
        self.world.at(following + worker.drawn, self._boundary, worker, following)

    def _pace(self, worker: Worker) -> float:
        return self.scenario.pace * self.scenario.costs.slowdown.get(worker.index, 1.0)

    def _note(self, worker: Worker, following: float) -> None:
        warmup = self.scenario.warmup
        if worker.steps == max(1, warmup):
            worker.started = following if warmup else worker.began
        if self._is_measured(worker):
            worker.ends_at = following
            worker.alone += max(self._pace(worker), worker.drawn)
        if worker.steps == self._target and worker.is_awaited:
            self._left -= 1

    # Coming and going --------------------------------------------------------------------------------------------

    def _leave(self, worker: Worker, _: object) -> None:
        worker.present, worker.since = False, self.world.now
        assert self._manner is not None
        for link in (*worker.outgoing, *worker.incoming):
            link.cut()
            peer = link.receiver if link.sender is worker else link.sender
            self._manner.lost(peer, worker)
            self._manner.lost(worker, peer)
        self.world.after(self._typical * self.scenario.away, self._return, worker)

    def _return(self, worker: Worker, _: object) -> None:
        """Come back: a peer that is there sends its whole model first."""
        now, model = self.world.now, 4.0 * self.scenario.parameters
        if worker.since is not None and self.scenario.warmup <= worker.steps < self._target:
            worker.absent += now - worker.since
        worker.since, worker.present = None, True
        ready = now
        donors = [link for link in worker.incoming if link.sender.present]
        if donors:
            begin = max(now, donors[0].sender.send_free)
            took = self.scenario.costs.transfer_time(round(model), donors[0].sender.index, begin)
            donors[0].sender.send_free = worker.receive_free = ready = begin + took
            donors[0].sender.sent += model
        for link in (*worker.outgoing, *worker.incoming):
            link.up = link.sender.present and link.receiver.present
        self.world.at(ready, self._begin, worker)

    # Frames ------------------------------------------------------------------------------------------------------

    def is_ready(self, link: Link) -> bool:
        """Whether a link is up and has credit: in frames, in bytes, and in the receiver's mailbox."""
        if not link.up:
            return False
        now, limits = self.world.now, self._limits
        if link.receipts:
            left = [moment for moment in link.receipts if moment > now]
            link.flying -= len(link.receipts) - len(left)
            link.receipts = left
        waiting = sum(moment <= now for moment, _ in link.landed) if link.landed else 0
        window = self._window
        if link.receiver.held >= limits.mailbox_bytes:
            return link.flying + waiting < window  # what waits is not credited
        return link.flying < window and waiting < limits.mailbox_frames

    def send(self, link: Link, kind: int = 0, part: int = 0, made: float | None = None) -> None:
        """Put a frame of the usual size on a link."""
        now, costs, sender = self.world.now, self.scenario.costs, link.sender
        size = self.parcels.size
        begin = max(now, sender.send_free)
        sender.send_free = begin + costs.transfer_time(round(size), sender.index, begin)
        link.flying += 1
        if self._is_measured(sender):
            sender.sent += size + self._receipt
        letter = Letter(size, now if made is None else made, kind, part, link.life)
        flight = costs.flight_time(self.rng)
        if link.back is not None and link.back.receipts:  # receipts of what came ride along
            riding = sender.send_free + flight
            link.back.receipts = [
                min(moment, max(riding, moment - self._limits.ack_delay)) for moment in link.back.receipts
            ]
        self.world.at(begin + flight, self._hear, link, letter)

    def _hear(self, link: Link, letter: Letter) -> None:
        """The head of a frame is here; the receiver's card takes it when it is free."""
        if letter.life != link.life:
            return
        now, costs, receiver = self.world.now, self.scenario.costs, link.receiver
        begin, size = max(now, receiver.receive_free), round(letter.size)
        own = costs.transfer_time(size, receiver.index, begin)
        receiver.receive_free = begin + own
        there = begin + max(own, costs.transfer_time(size, link.sender.index, begin))
        receiver.held += letter.size
        link.landed = [*(link.landed or ()), (there, letter)]
        # A receipt waits for a frame to ride on, unless the credit is running out.
        is_urgent = link.flying >= self._window - self._window // 4
        patience = 0.0 if is_urgent else self._limits.ack_delay
        link.receipts = [*(link.receipts or ()), there + patience + costs.flight_time(self.rng)]

    def take(self, worker: Worker) -> list[tuple[Link, Letter]]:
        """Take all that is there as a whole, link by link."""
        now = self.world.now
        taken: list[tuple[Link, Letter]] = []
        for link in worker.incoming:
            if link.landed:
                here = [letter for moment, letter in link.landed if moment <= now]
                if here:
                    link.landed = [entry for entry in link.landed if entry[0] > now]
                    taken += [(link, letter) for letter in here]
        worker.held -= sum(letter.size for _, letter in taken)
        return taken

    # The account -------------------------------------------------------------------------------------------------

    def mixed(self, worker: Worker, made: float) -> None:
        """Count a version of values that were made at ``made``."""
        if self._is_measured(worker):
            worker.contacts += 1
            self.ages.add((self.world.now - made) / (worker.period or self._typical))

    def due(self, worker: Worker, *, sent: int, wanted: int) -> None:
        """Count the frames that were due at a boundary, and those that left."""
        if self._is_measured(worker):
            worker.wanted += wanted
            worker.skipped += wanted - sent

    def _account(self) -> Timing:
        scenario = self.scenario
        told = [worker for worker in self.workers if worker.steps > scenario.warmup]
        steps = {worker.index: min(worker.steps, self._target) - scenario.warmup for worker in told}
        rates = [steps[worker.index] / worker.elapsed for worker in told]
        beats = scenario.links * heartbeat_size(scenario.links) / scenario.beat if scenario.links else 0.0
        all_steps = sum(steps.values())
        sent = sum(worker.sent for worker in told) / all_steps
        sent += beats * sum(worker.elapsed for worker in told) / all_steps
        wanted = sum(worker.wanted for worker in told)
        efficiencies = {worker.index: worker.alone / worker.elapsed for worker in told}
        return Timing(
            rule=scenario.rule,
            workers=scenario.workers,
            rate=mean_of(rates),
            efficiency=mean_of(list(efficiencies.values())),
            healthy_efficiency=mean_of([efficiencies[w.index] for w in told if not w.is_slow]),
            bytes_per_step=sent,
            dense_share=sent / (8 * scenario.parameters),
            median_age=self.ages.quantile(0.5),
            p99_age=self.ages.quantile(0.99),
            ages=self.ages.bins,
            contacts=sum(worker.contacts for worker in told) / all_steps,
            skipped=sum(worker.skipped for worker in told) / wanted if wanted else 0.0,
            seconds=self.world.now,
            steps=scenario.steps,
        )
