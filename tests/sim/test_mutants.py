"""The checker is not blind: with one rule of the protocol taken away it finds a violation within some seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from dagrad_bus.blocks import Stripe
from dagrad_bus.book import Book
from dagrad_bus.events import Outcome
from dagrad_bus.ids import JobId, NodeId
from dagrad_bus.link import Action, InLink, OutLink
from dagrad_bus.membership import Membership
from dagrad_bus.membership.actions import Actions
from dagrad_bus.messages import AckInfo, Data, Ping
from dagrad_bus.sim import scenarios
from dagrad_bus.sim.options import Options
from dagrad_bus.sim.run import Result, run
from dagrad_bus.sim.worker import Process

Indices = NDArray[np.int64]
Patch = Callable[[pytest.MonkeyPatch], None]


def forget_history(patch: pytest.MonkeyPatch) -> None:
    ack = OutLink.ack

    def trusting(link: OutLink, info: AckInfo, now: float) -> list[Action]:
        return ack(link, replace(info, history=(1 << 64) - 1), now)

    patch.setattr(OutLink, "ack", trusting)


def owe_nothing_without_credit(patch: pytest.MonkeyPatch) -> None:
    planned = Book.planned

    def careless(
        book: Book, job: JobId, ready: Sequence[NodeId], selected: Sequence[NodeId], indices: Indices,
        stripe: Stripe | None = None,
    ) -> None:  # fmt: skip
        planned(book, job, ready, ready, indices, stripe)

    patch.setattr(Book, "planned", careless)


def owe_nothing_for_lost_frames(patch: pytest.MonkeyPatch) -> None:
    resolved = Book.resolved

    def careless(book: Book, outcome: Outcome) -> None:
        resolved(book, replace(outcome, accepted=True))

    patch.setattr(Book, "resolved", careless)


def say_nothing_of_what_was_used(patch: pytest.MonkeyPatch) -> None:
    ping = InLink.ping

    def silent(link: InLink, message: Ping, now: float) -> list[Action]:
        return ping(link, replace(message, used=0), now)

    patch.setattr(InLink, "ping", silent)


def answer_a_ping_without_a_receipt(patch: pytest.MonkeyPatch) -> None:
    ping = InLink.ping

    def mute(link: InLink, message: Ping, now: float) -> list[Action]:
        ping(link, message, now)
        return []

    patch.setattr(InLink, "ping", mute)


def take_frames_twice(patch: pytest.MonkeyPatch) -> None:
    data = InLink.data

    def eager(link: InLink, message: Data, now: float) -> list[Action]:
        if message.seq <= link.resolved:
            link.resolved = message.seq - 1
        return data(link, message, now)

    patch.setattr(InLink, "data", eager)


def take_credit_back(patch: pytest.MonkeyPatch) -> None:
    info = InLink.info

    def mean(link: InLink, now: float) -> AckInfo:
        found = info(link, now)
        if not link._has_room(link.peer):
            link.credit = link.resolved
        return found

    patch.setattr(InLink, "info", mean)


def never_call_the_dead(patch: pytest.MonkeyPatch) -> None:
    def nothing(membership: Membership, now: float) -> None:
        """Let the dead rest."""

    patch.setattr(Membership, "_probe_dead", nothing)


def go_back_in_time(patch: pytest.MonkeyPatch) -> None:
    heard = Membership.heard

    def forgetful(membership: Membership, peer: NodeId, now: float) -> Actions:
        record = membership.record_of(peer)
        if record is not None and record.incarnation:
            membership._table.put(replace(record, incarnation=0), now)
        return heard(membership, peer, now)

    patch.setattr(Membership, "heard", forgetful)


@dataclass(frozen=True)
class Mutant:
    patch: Patch
    faults: tuple[str, ...]
    checks: tuple[str, ...]
    """Which of them may see it."""
    seeds: int = 10


MUTANTS = (
    Mutant(forget_history, ("latency", "flip", "full"), ("BV", "owed")),
    Mutant(owe_nothing_without_credit, ("latency", "reset", "nocredit"), ("BV", "owed")),
    Mutant(owe_nothing_for_lost_frames, ("latency", "reset"), ("BV", "owed")),
    Mutant(say_nothing_of_what_was_used, ("latency", "reset", "flip"), ("quiet", "owed", "edges", "BV", "spread")),
    Mutant(answer_a_ping_without_a_receipt, ("nocredit", "reset", "latency"), ("quiet", "owed", "edges", "spread"), 30),
    Mutant(take_credit_back, ("nocredit", "latency"), ("receipt",)),
    Mutant(go_back_in_time, ("pause", "latency", "partition"), ("record",), 20),
)


def first_failure(mutant: Mutant) -> Result | None:
    for seed in range(mutant.seeds):
        options = Options(
            seed, workers=6, horizon=30.0, faults=mutant.faults, latency=0.3, reset=0.1, partition=0.1, flip=0.02, pause=0.03,
            step=0.5, window=4,
        )  # fmt: skip
        result = run(options)
        if not result.ok:
            return result
    return None


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.patch.__name__ for mutant in MUTANTS])
def test_a_rule_that_is_taken_away_is_missed(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.patch(monkeypatch)
    found = first_failure(mutant)
    assert found is not None, "no seed saw it"
    assert found.violation in mutant.checks, found.text


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.patch.__name__ for mutant in MUTANTS])
def test_with_every_rule_in_place_the_same_seeds_hold(mutant: Mutant) -> None:
    found = first_failure(replace(mutant, seeds=3))
    assert found is None, found.told()


@pytest.mark.slow
def test_without_the_stall_rule_a_stopped_worker_accuses_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(membership: Membership, lag: float, now: float) -> None:
        """Take the others' silence at its word."""

    def rush(process: Process) -> None:
        """Judge first, hear the others out afterwards."""
        process.plug.paused = False
        process._run_tick()
        process._network.go_on(process.plug)

    assert all(scenarios.short_pause(seed, 8, 4.0).ok for seed in range(3))
    monkeypatch.setattr(Membership, "_excuse", nothing)
    monkeypatch.setattr(Process, "go_on", rush)
    assert not all(scenarios.short_pause(seed, 8, 4.0).ok for seed in range(3))


@pytest.mark.slow
def test_without_calls_to_the_dead_a_partition_never_heals(monkeypatch: pytest.MonkeyPatch) -> None:
    assert scenarios.partition(0).ok
    never_call_the_dead(monkeypatch)
    assert not scenarios.partition(0).ok
