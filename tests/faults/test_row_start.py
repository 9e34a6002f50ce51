"""Rows 33 to 35 and 42: starts, joins, restarts in turn, and everything at once."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zmq

from dagrad_bus.faults import ledger
from dagrad_bus.faults.census import Chronicle, all_say, degrees, is_whole, tables_agree
from dagrad_bus.faults.herd import RUN, Herd
from dagrad_bus.faults.rows import RowReport
from dagrad_bus.ids import derive_node_id
from dagrad_bus.topology.live import TopologySpec, neighbours

HerdOf = Callable[..., AbstractContextManager[Herd]]
pytestmark = [pytest.mark.timeout(290), pytest.mark.faults]
MISCHIEF: dict[str, dict[str, Any]] = {
    "hang": {"hang": True},
    "hang one way": {"hang": True, "direction": "up"},
    "delay": {"delay": 0.2, "jitter": 0.1},
    "flip": {"flip_every": 500_000},
    "slow": {"rate": 60_000.0},
    "free": {"hang": False, "delay": 0.0, "jitter": 0.0, "flip_every": 0, "rate": 0.0},
}
"""What the proxy may do to all connections of one worker's inbox."""
PERIOD = 6.4
"""Seconds in which a link sees every block."""


@pytest.mark.row(34, layer="L3")
def test_a_staggered_start_ends_in_the_computed_graph(herd_of: HerdOf, row: RowReport) -> None:
    chance, count, skew = random.Random(row.seed), 32, 15.0
    with herd_of(count, start=False, pace=0.2) as herd:
        moments = sorted((chance.uniform(0, skew), name) for name in herd.names)
        row.inject(f"{count} workers started over {skew} s of 60")
        begun = time.monotonic()
        for at, name in moments:
            time.sleep(max(0.0, begun + at - time.monotonic()))
            herd.start(name, wait=False)
        herd.await_started(*herd.names)
        last = time.monotonic()
        herd.await_linked(30)
        row.at_most("all links up after the last start", time.monotonic() - last, 5, "s")
        row.felt("seconds between first and last", last - begun)
        states = herd.states()
        members = {derive_node_id(RUN, name): name for name in herd.names}
        wanted = {
            name: {members[peer] for peer in neighbours(node, members, TopologySpec(degree=4))}
            for node, name in members.items()
        }
        row.exactly("graph as computed", {name: set(s["neighbours"]) for name, s in states.items()} == wanted, True)
        dead = [member for s in states.values() for member, what in s["members"].items() if what == "DEAD"]
        row.exactly("DEAD", dead, [])
        row.exactly("seen alive by all", all_say(states, herd.names, "ALIVE"), True)


@pytest.mark.row(35, layer="L3")
def test_all_restart_in_turn(herd_of: HerdOf, row: RowReport) -> None:
    with herd_of(8) as herd:
        suspects, lowest = 0, 8
        for name in herd.names:
            others = [other for other in herd.names if other != name]
            chronicle = Chronicle(herd)
            row.inject(f"{name} leaves, and is back after 3 s")
            left = herd.leave(name)[name]
            row.exactly(f"left behind by {name}", len(left["threads"]) + len(left["descriptors"]), 0)
            for _ in range(6):
                time.sleep(0.5)
                herd.note_exits()
                lowest = min(lowest, *degrees(herd.states(others)).values())
            herd.start(name)
            herd.await_linked(15)
            chronicle.read(others)
            suspects += chronicle.count("suspect", of=[name])
        row.exactly("SUSPECT of leavers", suspects, 0)
        row.at_least("degree throughout", lowest, 3)
        row.note("sweep", "not part of this layer: the herd has no torch")
        states = ledger.settle(herd, 15)
        row.exactly("links that break BV", ledger.broken_links(herd), {})
        row.exactly("frames that break ONE", sum(ledger.wrong_frames(states).values()), 0)


@pytest.mark.row(33, layer="L3")
def test_a_flood_of_joiners_is_held_back(herd_of: HerdOf, hostile: Callable[..., Any], row: RowReport) -> None:
    with herd_of(6) as herd:
        victim = herd["w0"]
        peer = hostile(herd, "w1")
        peer.connect(victim)
        ear: zmq.Socket[bytes] = peer.ctx.socket(zmq.SUB)
        ear.set(zmq.SUBSCRIBE, b"DB\x01\x60")
        ear.connect(f"tcp://{victim.host}:{victim.beat_port}")
        members = len(victim.ask("state")["members"])
        row.inject("500 HELLOs a second of unknown members with the run's key, for 15 s")
        beats: list[float] = []
        sent, begun = 0, time.monotonic()
        while (elapsed := time.monotonic() - begun) < 15:
            while sent < elapsed * 500:
                name = f"stranger{sent}"
                node = derive_node_id(RUN, name)
                peer.say(replace(peer.hello, node=node, name=name))
                sent += 1
            while ear.poll(2):
                ear.recv_multipart()
                beats.append(time.monotonic())
        ear.close(linger=0)
        state = victim.ask("state")
        row.felt("HELLOs sent", sent)
        row.at_most("members admitted a second", (len(state["members"]) - members) / 15, 5.5)
        late = np.abs(np.diff(beats) - 1.0) * 1000
        row.felt("heartbeats heard", len(beats))
        row.at_most("heartbeat jitter p99", float(np.percentile(late, 99)), 200, "ms")
        herd.await_linked(60)  # those let in at the honest rate are given up first: nobody is at their addresses


@pytest.mark.row(42, layer="L3")
def test_everything_at_once_then_quiet(herd_of: HerdOf, row: RowReport) -> None:
    chance, length = random.Random(row.seed), 120.0
    with herd_of(12, proxied=True) as herd:
        memory = max(state["rss"] for state in herd.states().values())
        begun = time.monotonic()
        row.note("chaos", f"{length:.0f} s of 600")
        while time.monotonic() - begun < length:
            wreak(herd, chance, row)
            time.sleep(chance.uniform(0.5, 2.0))
        calm(herd)
        row.inject("quiet")
        quiet = time.monotonic()
        herd.until("one table, all alive", lambda: all_say(herd.states(), herd.names, "ALIVE"), 60)
        herd.until("one table", lambda: tables_agree(herd.states()), 60)
        herd.until("whole", lambda: is_whole(herd.states()), 60)
        row.at_most("whole and known after", time.monotonic() - quiet, 60, "s")
        row.felt("faults", len(row.schedule) - 1)
        took, share = ledger.await_agreement(herd, 1e-3, 5 * PERIOD)
        row.at_most("spread", share, 1e-3)
        row.at_most("reconverged after", took, 4 * PERIOD, "s")
        states = ledger.settle(herd, 20)
        row.exactly("links that break BV", ledger.broken_links(herd), {})
        row.exactly("frames that break ONE", sum(ledger.wrong_frames(states).values()), 0)
        row.at_most("RSS +", max(state["rss"] for state in states.values()) - memory, 64, "MiB")
        left = herd.leave()
        row.exactly("left behind", [x for x in left.values() if x["threads"] or x["descriptors"]], [])


def wreak(herd: Herd, chance: random.Random, row: RowReport) -> None:
    """Do one thing that may happen, to one worker taken by chance."""
    assert herd.proxy is not None
    herd.note_exits()
    name = chance.choice(herd.names)
    what = chance.choice(["kill", "pause", "deaf", "reset", "cut", *MISCHIEF])
    row.inject(f"{what} {name}")
    if not herd[name].is_running:
        herd.start(name)
    match what:
        case "kill":
            herd.kill(name)
        case "pause":
            herd[name].signal(signal.SIGSTOP)
            time.sleep(chance.uniform(0.5, 4.0))
            herd[name].signal(signal.SIGCONT)
        case "deaf":
            herd[name].ask("set", reading=chance.random() < 0.5)
        case "reset":
            herd.proxy.ask("reset", route=f"{name}.inbox")
        case "cut":
            herd.proxy.ask("cut", route=f"{name}.inbox", after=chance.randrange(20_000))
        case _:
            herd.proxy.ask("set", route=f"{name}.inbox", **MISCHIEF[what])


def calm(herd: Herd) -> None:
    """End every fault; what is dead stands up."""
    assert herd.proxy is not None
    herd.note_exits()
    for name in herd.names:
        if not herd[name].is_running:
            herd.start(name)
        herd.proxy.ask("set", route=f"{name}.inbox", **MISCHIEF["free"])
    herd.ask_all("set", reading=True)
