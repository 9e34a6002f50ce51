"""Rows 19 to 26: what slow, broken and lying connections do to links. Workers behind the fault proxy."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager

import pytest

from dagrad_bus.faults import ledger
from dagrad_bus.faults.herd import Herd
from dagrad_bus.faults.remote import RemoteProxy
from dagrad_bus.faults.rows import RowReport

HerdOf = Callable[..., AbstractContextManager[Herd]]
BLOCKS, FRAME = 1024, 128
BOUND = math.ceil(10 * BLOCKS / FRAME)
"""Exchanges within which all that is owed must be accepted once faults have stopped."""
SETTLE = 3 * BOUND / 20
"""Seconds to wait for it: three times the bound at 20 steps a second."""
pytestmark = pytest.mark.timeout(240)


def proxy_of(herd: Herd) -> RemoteProxy:
    assert herd.proxy is not None
    return herd.proxy


def hold_promises(herd: Herd, row: RowReport) -> None:
    """BV and ONE, once the faults have stopped."""
    herd.await_linked(15)
    states = ledger.settle(herd, SETTLE)
    row.at_most("exchanges until BV", max(state["quiet_exchanges"] for state in states.values()), BOUND)
    row.exactly("links that break BV", ledger.broken_links(herd), {})
    row.exactly("frames that break ONE", sum(ledger.wrong_frames(states).values()), 0)
    herd.ask_all("set", quiet=False)


@pytest.fixture(scope="module")
def proxied(herd_of: HerdOf) -> Generator[Herd]:
    """Eight workers behind the proxy, for rows that leave them well."""
    with herd_of(8, proxied=True) as herd:
        for name in herd.names:
            proxy_of(herd).ask("record", route=f"{name}.inbox", messages=200)
        proxy_of(herd).ask("reset")  # what was there before the recording begins anew
        herd.await_linked(15)
        yield herd


@pytest.mark.slow
@pytest.mark.row(21, layer="L3")
def test_a_storm_of_resets_loses_nothing_for_good(proxied: Herd, row: RowReport) -> None:
    proxy, rounds = proxy_of(proxied), 30
    lost = proxied.counter("frames_lost", proxied.states())
    row.inject(f"RST on each link every 2 s, {rounds} times")
    for _ in range(rounds):
        for name in proxied.names:
            proxy.ask("reset", route=f"{name}.inbox")
            proxy.ask("reset", route=f"{name}.beat")
            time.sleep(2 / len(proxied.names))
    row.felt("frames lost", proxied.counter("frames_lost", proxied.states()) - lost)
    hold_promises(proxied, row)


@pytest.mark.faults
@pytest.mark.row(23, layer="L3")
def test_flipped_bits_are_mixed_nowhere(proxied: Herd, row: RowReport) -> None:
    proxy = proxy_of(proxied)
    before = refusals(proxied)
    row.inject("one bit flipped in 1 MB, both ways, without CURVE")
    proxy.ask("set", flip_every=1_000_000)
    proxied.until("30 bits flipped", lambda: proxy.counts().get("flips", 0) >= 30, 60)
    proxy.ask("set", flip_every=0)
    row.felt("bits flipped", proxy.counts()["flips"])
    row.felt("chunks refused for their checksum", refusals(proxied) - before)
    hold_promises(proxied, row)
    row.note("scope", "without CURVE")


def refusals(herd: Herd) -> int:
    states = herd.states()
    return sum(herd.counter(f"frames_dropped.{reason}", states) for reason in ("crc", "malformed"))


@pytest.mark.faults
@pytest.mark.row(24, layer="L3")
def test_what_is_replayed_is_accepted_nowhere(proxied: Herd, row: RowReport) -> None:
    proxy, route, victim = proxy_of(proxied), "w0.inbox", proxied["w0"]
    peer = proxied[victim.ask("state")["neighbours"][0]].node.hex()
    proxied.until("messages recorded", lambda: len(proxy.ask("tape", route=route, peer=peer)["messages"]) > 60, 20)
    late = late_frames(proxied)
    old = proxy.ask("tape", route=route, peer=peer)["messages"]
    row.inject(f"{len(old)} recorded messages slipped into the live connection")
    assert proxy.ask("replay", route=route, peer=peer, messages=old)["matching"] == 1
    proxied.until("they were felt", lambda: late_frames(proxied) > late, 5)
    row.inject("RST, then the old connection's tail on the new one")
    proxy.ask("reset", route=route, peer=peer)
    proxied.until("connected anew", lambda: proxy.ask("counts", route=route, peer=peer)["connections"], 5)
    proxied.await_linked(10)

    # links may still count as up, so the peer's new connection need not have said whose it is: nothing is slipped in until then
    def slip_in() -> bool:
        return bool(proxy.ask("replay", route=route, peer=peer, messages=old[-30:])["matching"] == 1)

    proxied.until("slipped into the new connection", slip_in, 10)
    time.sleep(1)
    row.felt("frames late", late_frames(proxied) - late)
    hold_promises(proxied, row)


def late_frames(herd: Herd) -> int:
    return herd.counter("frames_dropped.late", herd.states(["w0"]))


@pytest.mark.faults
@pytest.mark.row(20, layer="L3")
def test_latency_accuses_nobody(proxied: Herd, row: RowReport) -> None:
    proxy, watched = proxy_of(proxied), 60
    row.inject("200 +- 100 ms on everything, both ways")
    proxy.ask("set", delay=0.2, jitter=0.1)
    proxied.await_linked(20)
    time.sleep(3)
    proxied.ask_all("forget_times")
    before = proxied.counter("suspected", proxied.states())
    time.sleep(watched)
    states = proxied.states()
    row.exactly("SUSPECT", proxied.counter("suspected", states) - before, 0)
    errors = sorted(state["age_error"] for state in states.values())
    row.at_most("median error of age", errors[len(errors) // 2], 150, "ms")
    row.felt("round trip", min(state["srtt"] for state in states.values()) * 1000)
    row.note("watched", f"{watched} s of 600")
    proxy.ask("set", delay=0.0, jitter=0.0)


@pytest.mark.faults
@pytest.mark.row(22, layer="L3")
def test_a_cut_frame_is_forgotten_and_sent_anew(herd_of: HerdOf, row: RowReport) -> None:
    chance = random.Random(row.seed)
    felt, slowest = 0, 0.0
    with herd_of(2, proxied=True, pace=0.2, replica={"blocks": 16384, "frame": 12288, "stripe": 64}) as herd:
        proxy, sender = proxy_of(herd), herd["w0"]
        peer = sender.node.hex()
        herd["w1"].ask("set", publishing=False)
        for _ in range(12):
            resets = proxy.counts().get("cut_within", 0)
            after = chance.randrange(280_000, 700_000)
            row.inject(f"cut after {after} bytes")
            proxy.ask("cut", route="w1.inbox", peer=peer, after=after)
            herd.until("cut", lambda: proxy.counts().get("cut_within", 0) > resets, 10)  # noqa: B023
            sender.ask("set", publishing=False)
            felt += herd["w1"].ask("state")["assembly"] > 0
            herd.await_linked(10, ["w0"])
            slowest = max(
                slowest, herd.until("nothing in assembly", lambda: not herd["w1"].ask("state")["assembly"], 5)
            )
            sender.ask("set", publishing=True)
        row.felt("frames cut behind their first chunk", felt)
        row.at_most("partial frame discarded after the reconnect", slowest, 2, "s")
        herd["w1"].ask("set", publishing=True)
        states = ledger.settle(herd, 30)
        row.at_most("exchanges until BV", max(state["quiet_exchanges"] for state in states.values()), 14)
        row.exactly("frames that break ONE", sum(ledger.wrong_frames(states).values()), 0)


@pytest.mark.slow
@pytest.mark.row(25, layer="L3")
def test_a_receiver_without_credit_is_left_alone(herd_of: HerdOf, row: RowReport) -> None:
    with herd_of(5, change={"link": {"window": 2, "mailbox_frames": 4}}) as herd:
        others = [name for name in herd.names if name != "w1"]
        row.inject("w1 takes nothing out of its mailbox")
        herd["w1"].ask("set", reading=False)
        flying = 0
        for _ in range(10):
            flying = max(flying, *(state["in_flight"]["w1"] for state in herd.states(others).values()))
        herd.until("no credit", lambda: not any(state["links"]["w1"][0] for state in herd.states(others).values()), 10)
        before = herd.states(others)
        herd.ask_all("forget_times", others)
        for _ in range(20):
            time.sleep(0.2)
            flying = max(flying, *(state["in_flight"]["w1"] for state in herd.states(others).values()))
        after = herd.states(others)
        row.felt("exchanges without it", min(after[name]["step"] - before[name]["step"] for name in others))
        row.at_most("frames in flight to it", flying, 2)
        row.exactly("further jobs", sum(after[name]["jobs"]["w1"] - before[name]["jobs"]["w1"] for name in others), 0)
        row.at_most("its mailbox, frames a link", max(herd["w1"].ask("state")["mailbox"].values()), 6)
        row.note("hand-off p99 of the others", max(state["handoff_p99"] for state in after.values()), "ms")
        row.inject("w1 reads again")
        herd["w1"].ask("set", reading=True)
        hold_promises(herd, row)


@pytest.mark.faults
@pytest.mark.row(26, layer="L3")
def test_a_slow_reader_loses_freshness_only(herd_of: HerdOf, row: RowReport) -> None:
    with herd_of(5, change={"link": {"window": 2, "mailbox_frames": 4}}) as herd:
        row.inject("w1 sleeps 50 ms a frame")
        herd["w1"].ask("set", per_frame=0.05)
        fullest = 0
        for _ in range(40):
            time.sleep(0.2)
            fullest = max(fullest, *herd["w1"].ask("state")["mailbox"].values())
        row.felt("blocks coalesced", herd.counter("blocks_coalesced", herd.states(["w1"])))
        row.at_most("its mailbox, frames a link", fullest, 4 + 2)
        herd["w1"].ask("set", per_frame=0.0)
        hold_promises(herd, row)


@pytest.mark.faults
@pytest.mark.row(19, layer="L3")
def test_a_very_slow_link_carries_a_large_frame(herd_of: HerdOf, row: RowReport) -> None:
    size = 80_000
    shape = {"blocks": size, "frame": 2048, "stripe": size}  # all of it in every frame: 5.1 MB
    raw = {"transport": {"codec": "raw"}}
    with herd_of(2, proxied=True, start=False, pace=0.5, replica=shape, change=raw) as herd:
        herd.start()
        proxy, sender = proxy_of(herd), herd["w0"]
        row.inject("60 kB/s towards w1")
        proxy.ask("set", route="w1.inbox", rate=60_000.0, direction="up", buffer=1 << 16)
        herd["w1"].ask("set", publishing=False)
        start = time.monotonic()
        before = herd.counter("frames_accepted", herd.states(["w0"]))
        row.exactly("frames accepted before", before, 0)
        taken = herd.until("accepted", lambda: herd.counter("frames_accepted", herd.states(["w0"])), 110)
        row.at_most("the frame was accepted after", taken, 100, "s")
        row.felt("megabytes of it", size * 64 / 1e6)
        row.note("blocks owed or frames in flight then", sender.ask("state")["owed"])
        time.sleep(max(0.0, 120 - (time.monotonic() - start)))
        row.exactly("disconnects in 120 s", herd.counter("connections_broken", herd.states()), 0)
        row.inject("full speed")
        proxy.ask("set", route="w1.inbox", rate=0.0, direction="up")
        herd["w1"].ask("set", publishing=True)
        ledger.settle(herd, 60)
        row.exactly("links that break BV", ledger.broken_links(herd), {})
