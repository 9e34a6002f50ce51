"""Laws of the state transfer: whatever is lost, refused or repeated, every block is had exactly, from some donor."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.events import LinkState, Outcome, PeerNews
from dagrad_bus.ids import JobId, NodeId, Step
from dagrad_bus.sweep import (
    AGAIN,
    BACKOFF_MS,
    DONORS,
    GAP,
    HEARING,
    NO_DONOR,
    SERVED,
    GapWatch,
    Portion,
    SweepIn,
    SweepOut,
)
from dagrad_bus.wire import StateRejection, StateReq, pack

PEERS = [NodeId(bytes([i]) * 16) for i in range(8)]
ME = NodeId(b"m" * 16)
PATIENT = dict.fromkeys(PEERS, 10.0)
LINKS = tuple(LinkState(peer, True, 1) for peer in [*PEERS, ME])


def filled(sweep: SweepIn, requests: list[tuple[NodeId, StateReq]], now: float) -> None:
    for peer, request in requests:
        for start, count in request.ranges:
            sweep.received(peer, request.request, np.arange(start, start + count), now, last=False)


def test_the_blocks_are_dealt_to_four_donors_and_cover_all_once() -> None:
    sweep = SweepIn(1000, 10, 0.0)
    seen = np.zeros(1000, int)
    while not sweep.is_done:
        requests = sweep.ask(PATIENT, 0.0)
        assert len(requests) == DONORS and not sweep.ask(PATIENT, 0.0)
        for _, request in requests:
            pack(request)
            for start, count in request.ranges:
                seen[start : start + count] += 1
                assert count <= 10
        filled(sweep, requests, 0.0)
    assert (seen == 1).all()


def test_the_deal_is_fair() -> None:
    requests = SweepIn(100, 10, 0.0).ask(PATIENT, 0.0)
    assert [len(request.ranges) for _, request in requests] == [3, 3, 2, 2]
    assert [request.request for _, request in requests] == [1, 2, 3, 4]
    assert len(SweepIn(3, 10, 0.0).ask(PATIENT, 0.0)) == 1


def test_a_lost_donor_gives_its_blocks_back() -> None:
    sweep = SweepIn(20, 10, 0.0, first=7)
    (first, one), (_, two) = sweep.ask(dict.fromkeys(PEERS[:2], 10.0), 0.0)
    sweep.received(first, one.request, np.arange(0, 4), 1.0, last=False)
    ((other, again),) = sweep.ask(dict.fromkeys(PEERS[1:3], 10.0), 1.0)
    assert other == PEERS[2] and again == StateReq(9, ((4, 6),)) and two.request == 8


def test_a_connection_made_anew_means_asking_anew() -> None:
    sweep = SweepIn(20, 10, 0.0)
    ((peer, request),) = sweep.ask({PEERS[0]: 10.0}, 0.0)
    assert sweep.is_asked(peer) and not sweep.is_asked(ME)
    sweep.lost(peer)
    sweep.lost(ME)
    assert not sweep.is_asked(peer)
    ((_, again),) = sweep.ask({PEERS[0]: 10.0}, 0.0)
    assert again.ranges == request.ranges


def test_a_refusal_is_respected_for_its_time() -> None:
    sweep = SweepIn(20, 10, 0.0)
    ((peer, request),) = sweep.ask({PEERS[0]: 10.0}, 0.0)
    sweep.refused(peer, request.request + 1, 2.0, 0.0)  # another request's
    assert not sweep.ask({PEERS[0]: 10.0}, 0.0)
    sweep.refused(peer, request.request, 2.0, 0.0)
    assert not sweep.ask({PEERS[0]: 10.0}, 1.9)
    ((_, again),) = sweep.ask({PEERS[0]: 10.0}, 2.0)
    assert again.ranges == request.ranges


def test_a_silent_donor_is_passed_over_and_asked_again_later() -> None:
    sweep = SweepIn(20, 10, 0.0)
    ((_, request),) = sweep.ask({PEERS[0]: 10.0}, 0.0)
    sweep.received(PEERS[0], request.request, np.array([0]), 5.0, last=False)
    assert not sweep.ask({PEERS[0]: 10.0}, 14.9)
    assert not sweep.ask({PEERS[0]: 10.0}, 15.0)
    ((_, again),) = sweep.ask({PEERS[0]: 10.0}, 15.0 + AGAIN)
    assert again.ranges == ((1, 10), (11, 9))


def test_a_donor_that_ends_early_is_asked_for_the_rest() -> None:
    sweep = SweepIn(20, 20, 0.0)
    ((peer, request),) = sweep.ask({PEERS[0]: 10.0}, 0.0)
    sweep.received(peer, request.request, np.arange(5, 20), 0.0, last=True)
    ((_, rest),) = sweep.ask({PEERS[0]: 10.0}, 0.0)
    assert rest.ranges == ((0, 5),)


def test_what_nobody_asked_for_is_not_wanted_and_repeats_are_not_fresh() -> None:
    sweep = SweepIn(4, 4, 0.0)
    ((peer, request),) = sweep.ask({PEERS[0]: 10.0}, 0.0)
    assert not sweep.received(PEERS[1], request.request, np.arange(4), 0.0, last=True).any()
    fresh = sweep.received(peer, 99, np.array([1, 2]), 0.0, last=True)  # of an older request: as good
    assert fresh.all() and sweep.missing == 2
    fresh = sweep.received(peer, request.request, np.arange(4), 0.0, last=True)
    assert fresh.tolist() == [True, False, False, True] and sweep.is_done and not sweep.ask(PATIENT, 0.0)


def test_a_sweep_starves_when_nothing_comes() -> None:
    sweep = SweepIn(4, 4, 100.0)
    assert not sweep.is_starved(100.0 + NO_DONOR - 0.1)
    ((peer, request),) = sweep.ask({PEERS[0]: 50.0}, 120.0)
    assert sweep.is_starved(100.0 + NO_DONOR)
    sweep.received(peer, request.request, np.array([0]), 125.0, last=False)
    assert not sweep.is_starved(125.0 + NO_DONOR - 0.1) and sweep.is_starved(125.0 + NO_DONOR)


def test_a_donor_serves_two_and_sends_the_others_away() -> None:
    out = SweepOut(90, 100, 30)
    request = StateReq(5, ((0, 40), (80, 20)))
    assert [out.requested(peer, request, LINKS, 0.0) for peer in PEERS[:SERVED]] == [None] * SERVED
    refusal = out.requested(PEERS[5], request, LINKS, 0.0)
    assert refusal is not None and (refusal.request, refusal.code) == (5, StateRejection.BUSY)
    assert refusal.backoff_ms == BACKOFF_MS
    assert out.requested(PEERS[0], request, LINKS, 0.0) is None  # a repeat
    out.drop(PEERS[0])
    assert out.requested(PEERS[5], request, LINKS, 0.0) is None


def test_a_request_beyond_the_layout_or_without_a_link_is_refused() -> None:
    out = SweepOut(90, 100, 30)
    beyond = out.requested(ME, StateReq(1, ((99, 2),)), LINKS, 0.0)
    assert beyond is not None and beyond.code == StateRejection.LAYOUT
    unlinked = out.requested(ME, StateReq(1, ((99, 1),)), (), 0.0)
    assert unlinked is not None and unlinked.code == StateRejection.BUSY


def portions(out: SweepOut, lost: tuple[int, ...] = ()) -> list[Portion]:
    made: list[Portion] = []
    while (portion := out.next_portion(ME)) is not None:
        made.append(portion)
        job = JobId(len(made))
        out.sent(ME, job, portion)
        assert out.next_portion(ME) is None and ME not in out.waiting()
        out.resolved(Outcome(job, ME, accepted=len(made) not in lost), 0.0)
    return made


def test_frames_follow_the_ranges_and_hold_one_sort_of_blocks() -> None:
    out = SweepOut(90, 100, 30)
    out.requested(ME, StateReq(5, ((0, 40), (80, 20))), LINKS, 0.0)
    made = portions(out)
    assert [(p.start, p.count) for p in made] == [(0, 30), (30, 10), (80, 10), (90, 10)]
    assert [p.last for p in made] == [False, False, False, True] and not out.served


def test_a_lost_frame_is_sent_again_and_in_halves_if_it_is_lost_again_and_again() -> None:
    out = SweepOut(90, 100, 30)
    out.requested(ME, StateReq(5, ((0, 40),)), LINKS, 0.0)
    made = [(p.start, p.count) for p in portions(out, (1, 3, 4, 5))]
    assert made == [(0, 30), (0, 30), (30, 10), (30, 10), (30, 10), (30, 5), (35, 5)]


def test_a_request_ends_with_its_link_or_when_nothing_is_taken() -> None:
    for links, now in (
        ((), 1.0),
        ((LinkState(ME, True, 2),), 1.0),
        (LINKS, NO_DONOR),
    ):
        out = SweepOut(90, 100, 30)
        out.requested(ME, StateReq(5, ((0, 30),)), LINKS, 0.0)
        out.keep(LINKS, NO_DONOR - 0.1)
        assert out.served == (ME,)
        out.keep(links, now)
        assert not out.served and out.next_portion(ME) is None
        out.resolved(Outcome(JobId(1), ME, accepted=True), 0.0)


FATES = ("ok", "ok", "ok", "lost", "twice", "late", "gone", "refuse", "silent")
ARRIVES = ("ok", "twice")


class World:
    """One requester and five donors, half a second a turn; fates say what happens in a turn."""

    def __init__(self, floats: int, integers: int, frame: int) -> None:
        self.new_donor = partial(SweepOut, floats, floats + integers, frame)
        self.sweep = SweepIn(floats + integers, frame, 0.0)
        self.giver = np.full(floats + integers, -1)
        self.donors = {peer: self.new_donor() for peer in PEERS[:5]}
        self.late: list[tuple[NodeId, Portion]] = []
        self.jobs = 0
        self.now = 0.0

    def turn(self, fate: str, chance: random.Random) -> None:
        self.now += 0.5
        for peer, request in self.sweep.ask(dict.fromkeys(self.donors, 10.0), self.now):
            pack(request)  # within all limits
            refusal = self.donors[peer].requested(peer, request, LINKS, self.now)
            if fate == "refuse" or refusal is not None:
                self.donors[peer].drop(peer)
                self.sweep.refused(peer, request.request, 0.5, self.now)
        if fate == "gone":
            self.donors[chance.choice(list(self.donors))] = self.new_donor()
        for peer, donor in self.donors.items():
            portion = donor.next_portion(peer)
            if portion is not None and fate != "silent":
                self.send(peer, portion, fate)

    def send(self, peer: NodeId, portion: Portion, fate: str) -> None:
        self.jobs += 1
        self.donors[peer].sent(peer, JobId(self.jobs), portion)
        if fate == "late":
            self.late.append((peer, portion))
        if fate in ARRIVES:
            for one in [(peer, portion)] * (1 + (fate == "twice")) + self.late:
                self.deliver(*one)
            self.late.clear()
        self.donors[peer].resolved(Outcome(JobId(self.jobs), peer, accepted=fate in ARRIVES), self.now)

    def deliver(self, peer: NodeId, portion: Portion) -> None:
        indices = np.arange(portion.start, portion.start + portion.count)
        fresh = self.sweep.received(peer, portion.request, indices, self.now, last=portion.last)
        assert (self.giver[indices[fresh]] == -1).all()  # none is taken twice
        self.giver[indices[fresh]] = PEERS.index(peer)


@settings(max_examples=50)
@given(
    st.integers(1, 200), st.integers(0, 9), st.integers(1, 40), st.lists(st.sampled_from(FATES), max_size=60),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_every_block_is_had_exactly_from_some_donor(
    floats: int, integers: int, frame: int, fates: list[str], chance: random.Random
) -> None:
    world = World(floats, integers, frame)
    for _ in range(5000):
        if not world.sweep.is_done:
            world.turn(fates.pop() if fates else "ok", chance)
    assert world.sweep.is_done and world.sweep.have.all() and (world.giver >= 0).all()


@pytest.mark.parametrize("frame", [0, 1, 1 << 40])
def test_any_frame_size_works(frame: int) -> None:
    sweep = SweepIn(40, frame, 0.0)
    while not sweep.is_done:
        filled(sweep, sweep.ask(PATIENT, 0.0), 0.0)


def news(**steps: tuple[int, float]) -> dict[NodeId, PeerNews]:
    return {PEERS[int(name[1:])]: PeerNews(Step(step), rate) for name, (step, rate) in steps.items()}


@pytest.mark.parametrize(
    ("said", "behind"),
    [
        ({"p0": (GAP, 0.0), "p1": (GAP, 0.0)}, False),
        ({"p0": (GAP + 1, 0.0), "p1": (GAP + 1, 0.0)}, True),
        ({"p0": (1000, 0.0), "p1": (0, 0.0), "p2": (0, 0.0)}, False),  # the median decides
        ({"p0": (1000, 100.0), "p1": (990, 99.0)}, False),  # they began with us, and are faster
        ({"p0": (1100, 100.0), "p1": (1200, 99.0)}, True),
    ],
)
def test_far_behind_is_meant_at_the_start(said: dict[str, tuple[int, float]], behind: bool) -> None:
    assert GapWatch(0, 5.0).decide(news(**said), PEERS[: len(said)], 15.0) is behind
    ahead = GapWatch(2000, 5.0)
    assert ahead.decide(news(**said), PEERS[: len(said)], 15.0) is False


def test_nothing_is_decided_before_half_of_the_neighbours_were_heard_or_some_time_went_by() -> None:
    watch, one = GapWatch(0, 0.0), news(p0=(500, 0.0))
    assert watch.decide({}, PEERS[:4], 1.0) is None
    assert watch.decide(one, PEERS[1:4], 1.0) is None  # no link to that one
    assert watch.decide(one, PEERS[:4], 2.0) is None
    assert watch.decide(one, PEERS[:4], 2.0 + HEARING) is True
    assert GapWatch(0, 0.0).decide(one | news(p1=(500, 0.0)), PEERS[:4], 2.0) is True


def test_news_from_before_the_watch_say_nothing() -> None:
    old = news(p0=(500, 0.0), p1=(500, 0.0))
    watch = GapWatch(0, 0.0, settle=2.0, known=old)
    fresh = old | news(p0=(501, 0.0))
    assert watch.decide(fresh, PEERS[:2], 1.9) is None
    assert watch.decide(old, PEERS[:2], 2.0) is None
    assert watch.decide(fresh, PEERS[:2], 2.0) is True
