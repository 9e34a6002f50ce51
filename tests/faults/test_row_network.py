"""Rows 2, 13, 14 and 16 to 18: hosts that vanish, networks that part, links that are slow. Needs network namespaces."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dagrad_bus.faults import ledger
from dagrad_bus.faults.census import Chronicle, all_say, changes_by_member, delays, is_whole, percentile, tables_agree
from dagrad_bus.faults.herd import Herd
from dagrad_bus.faults.namespaces import Hosts
from dagrad_bus.faults.rows import RowReport

HostsOf = Callable[[int], Hosts]
pytestmark = [pytest.mark.timeout(280), pytest.mark.faults]
PERIOD = 6.4
"""Seconds in which a link sees every block."""


@contextmanager
def spread_herd(hosts: Hosts, folder: Path, seed: int, pace: float = 0.05) -> Generator[Herd]:
    """One worker a host, linked."""
    with Herd(folder, [f"w{number}" for number in range(hosts.count)], seed=seed, pace=pace) as herd:
        for number, name in enumerate(herd.names):
            herd[name].host = hosts.address(number)
        for number, name in enumerate(herd.names):
            herd.start(name, namespace=hosts.name(number), wait=False)
        herd.await_started(*herd.names)
        herd.await_linked(30)
        time.sleep(3)  # heartbeats have been heard: silence is judged by their rhythm
        yield herd


@pytest.mark.row(2, layer="L4")
def test_a_host_that_vanishes_is_dead_everywhere(hosts: HostsOf, tmp_path: Path, row: RowReport) -> None:
    net = hosts(16)
    with spread_herd(net, tmp_path, row.seed) as herd:
        chronicle, moments = Chronicle(herd), dict[str, float]()
        for number in (3, 9):
            name = f"w{number}"
            others = [other for other in herd.names if other not in {*moments, name}]
            net.plug(number, plugged=False)
            moments[name] = time.monotonic()
            row.inject(f"cable of {name} pulled")
            herd.until("dead everywhere", lambda: all_say(herd.states(others), [name], "DEAD"), 20)  # noqa: B023
            chronicle.read(others)
        found = [at for at in delays(chronicle, "dead", moments) if at >= 0]
        row.felt("verdicts", len(found))
        row.at_most("DEAD everywhere p50", percentile(found, 50), 5.5, "s")
        row.at_most("DEAD everywhere, longest", max(found), 12, "s")
        honest = [
            e for e in chronicle.events if e.kind == "dead" and e.observer not in moments and e.member not in moments
        ]
        row.exactly("DEAD of others", len(honest), 0)


@pytest.mark.row(13, layer="L4")
@pytest.mark.row(14, layer="L4")
def test_halves_part_and_heal(hosts: HostsOf, tmp_path: Path, row: RowReport) -> None:
    net = hosts(16)
    with spread_herd(net, tmp_path, row.seed) as herd:
        left, right = list(herd.names[:8]), list(herd.names[8:])
        live_apart(herd, net, left, right, row)
        net.part(range(8), range(8, 16), parted=False)
        healed = time.monotonic()
        row.inject("routes removed")
        herd.until("one table", lambda: all_alive(herd), 40)
        row.at_most("table equal after", time.monotonic() - healed, 15, "s")
        herd.until("cross edges", lambda: cross_edges(herd, left) >= 4, 60)
        row.at_most("4 cross edges after", time.monotonic() - healed, 60, "s")
        herd.until("whole", lambda: is_whole(herd.states()), 20)
        took, share = ledger.await_agreement(herd, 1e-3, 4 * PERIOD)
        row.at_most("spread", share, 1e-3)
        row.at_most("reconverged after", took, 2 * PERIOD, "s")
        herd.ask_all("set", frozen=False)
        states = ledger.settle(herd, 15)
        row.exactly("links that break BV", ledger.broken_links(herd), {})
        row.exactly("frames that break ONE", sum(ledger.wrong_frames(states).values()), 0)


def live_apart(herd: Herd, net: Hosts, left: list[str], right: list[str], row: RowReport) -> None:
    """Row 13: both halves go on."""
    net.part(range(8), range(8, 16))
    start = time.monotonic()
    row.inject("partition 8/8, both ways, 40 s of 60")

    def apart() -> bool:
        return all_say(herd.states(left), right, "DEAD") and all_say(herd.states(right), left, "DEAD")

    row.note("DEAD after", herd.until("each half thinks the other dead", apart, 40), "s")
    dead_at = time.monotonic()

    def two_wholes() -> bool:
        return is_whole(herd.states(left)) and is_whole(herd.states(right))

    herd.until("both halves whole", two_wholes, 25)
    row.at_most("both halves whole after DEAD", time.monotonic() - dead_at, 15, "s")
    steps = {name: state["step"] for name, state in herd.states().items()}
    time.sleep(max(2.0, 40 - (time.monotonic() - start)))
    after = herd.states()
    row.felt("steps meanwhile, fewest", min(after[name]["step"] - steps[name] for name in after))


def all_alive(herd: Herd) -> bool:
    states = herd.states()
    return all_say(states, herd.names, "ALIVE") and tables_agree(states)


def cross_edges(herd: Herd, left: list[str]) -> int:
    """Edges up in both directions between the halves."""
    states = herd.states()
    return sum(
        state["out"].get(peer) == "up" and states[peer]["out"].get(name) == "up"
        for name, state in states.items()
        for peer in state["neighbours"]
        if name in left and peer not in left
    )


@pytest.mark.row(16, layer="L4")
def test_a_one_way_partition_makes_nobody_flap(hosts: HostsOf, tmp_path: Path, row: RowReport) -> None:
    net = hosts(8)
    with spread_herd(net, tmp_path, row.seed) as herd:
        chronicle = Chronicle(herd)
        neighbour = herd.names.index(herd["w0"].ask("state")["neighbours"][0])
        row.inject(f"w0 sends to w{neighbour} in vain, for 60 s; answers get through")
        sent = herd["w0"].ask("state")["jobs"].get(f"w{neighbour}", 0)
        net.blackhole([0], [neighbour])
        start = time.monotonic()
        time.sleep(60)
        chronicle.read()
        changes = changes_by_member(chronicle.events, start)
        row.at_most("state changes per member in 60 s", max(changes.values(), default=0), 2)
        row.note("changes in all", sum(changes.values()))
        state = herd["w0"].ask("state")
        row.note("link to it", state["out"].get(f"w{neighbour}", "none"))
        row.exactly("felt: link stalled, lost or replaced", state["out"].get(f"w{neighbour}") != "up", True)
        row.note("jobs to it", state["jobs"].get(f"w{neighbour}", 0) - sent)
        net.blackhole([0], [neighbour], there=False)


@pytest.mark.row(17, layer="L4")
def test_a_bridge_keeps_two_sides_together(hosts: HostsOf, tmp_path: Path, row: RowReport) -> None:
    net, bridge = hosts(9), "w8"
    with spread_herd(net, tmp_path, row.seed) as herd:
        chronicle = Chronicle(herd)
        row.inject("sides 0-3 and 4-7 cannot reach one another; w8 sees both; 60 s")
        clocks = {name: state["clocks"] for name, state in herd.states().items()}
        net.part(range(4), range(4, 8))
        time.sleep(60)
        chronicle.read()
        states = herd.states()
        row.exactly("DEAD", chronicle.count("dead"), 0)
        row.felt("accusations heard", chronicle.count("suspect"))
        refuted = max(state["incarnations"][name] for name, state in states.items())
        row.at_most("refuted by one member in 60 s (one for each of 4 it cannot reach)", refuted, 4)
        crossed = min(states["w0"]["clocks"][n] - clocks["w0"][n] for n in range(4, 8))
        row.felt("versions crossed by relay, fewest steps", crossed)
        row.felt("links of the bridge", sum(state == "up" for state in states[bridge]["out"].values()))


@pytest.mark.row(18, layer="L4")
def test_a_slow_link_slows_only_itself(hosts: HostsOf, tmp_path: Path, row: RowReport) -> None:
    net = hosts(6)
    with spread_herd(net, tmp_path, row.seed) as herd:
        others = [name for name in herd.names if name != "w1"]
        base, memory = pair_rate(herd, others), {name: state["rss"] for name, state in herd.states().items()}
        broken = herd.counter("connections_broken", herd.states())
        row.inject("w1 sends at 1 Mbit/s")
        net.limit(1, 1_000_000)
        skipped = herd["w1"].ask("state")["step"], sum(herd["w1"].ask("state")["jobs"].values())
        time.sleep(5)
        slow = pair_rate(herd, others)
        time.sleep(20)
        states = herd.states()
        jobs = sum(states["w1"]["jobs"].values()) - skipped[1]
        row.felt("frames that w1 did not send", (states["w1"]["step"] - skipped[0]) * len(states["w1"]["links"]) - jobs)
        row.exactly("connections broken", herd.counter("connections_broken", states) - broken, 0)
        row.at_least("other links, share of their rate", slow / base, 0.9)
        row.at_most("RSS +", max(states[name]["rss"] - memory[name] for name in states), 32, "MiB")
        net.limit(1, 0)
        states = ledger.settle(herd, 20)
        row.exactly("links that break BV", ledger.broken_links(herd), {})


def pair_rate(herd: Herd, names: list[str]) -> float:
    """Frames a second among ``names``, measured for 5 s."""

    def total() -> int:
        return sum(
            count for state in herd.states(names).values() for peer, count in state["from"].items() if peer in names
        )

    start, before = time.monotonic(), total()
    time.sleep(5)
    return (total() - before) / (time.monotonic() - start)
