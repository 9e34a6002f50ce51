"""The graph follows from view and spec alone; the spec is a register in which the newest wins."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from dagrad_bus.ids import NodeId, derive_node_id
from dagrad_bus.membership import Base, GraphMissing, NeighboursChanged, SpecChanged, Table
from dagrad_bus.membership.context import Context
from dagrad_bus.membership.rumours import Rumours
from dagrad_bus.membership.wiring import GraphSource, Wiring, no_graphs, spec_fingerprint
from dagrad_bus.messages import MemberState, Record
from dagrad_bus.settings import BeatSettings
from dagrad_bus.topology.live import TopologySpec, neighbours
from dagrad_bus.topology.static import StaticGraph

IDS = sorted(derive_node_id("wiring", str(i)) for i in range(16))
ME = IDS[0]


def alive(node: NodeId) -> Record:
    return Record(node, 1, 0, MemberState.ALIVE, name=node.hex()[:8])


def start(spec: TopologySpec, graph: GraphSource = no_graphs) -> tuple[Context, Table, Wiring]:
    context = Context(alive(ME), BeatSettings(), np.random.default_rng(0))
    table = Table(Base(alive(node) for node in IDS), 0.0)
    wiring = Wiring(context, table, Rumours(context), spec, graph)
    wiring.update(frozenset())
    return context, table, wiring


def test_neighbours_are_those_of_the_pure_function_and_change_with_the_view() -> None:
    context, table, wiring = start(TopologySpec())
    assert wiring.neighbours == neighbours(ME, IDS, TopologySpec())
    assert wiring.prefixes == tuple(node[:8] for node in wiring.neighbours)
    context.out.clear()
    assert not wiring.update(frozenset()) and context.out == []
    lost = wiring.neighbours[0]
    table.merge(Record(lost, 1, 0, MemberState.SUSPECT), 1.0)
    assert not wiring.update(frozenset())  # a rumour rewires nothing
    table.merge(Record(lost, 1, 0, MemberState.DEAD), 1.0)
    assert wiring.update(frozenset())
    [action] = context.out
    assert isinstance(action, NeighboursChanged) and lost in action.removed and action.added
    assert action.neighbours == wiring.neighbours == neighbours(ME, [n for n in IDS if n != lost], TopologySpec())


def test_the_newest_spec_wins() -> None:
    context, _, wiring = start(TopologySpec())
    first, second = TopologySpec(version=1, author=IDS[1]), TopologySpec(version=1, author=IDS[2], kind="ring")
    assert wiring.offer(first, 0.0) and wiring.offer(second, 0.0)
    assert not wiring.offer(first, 0.0) and not wiring.offer(second, 0.0)
    assert wiring.spec == second and wiring.fingerprint == spec_fingerprint(second) != spec_fingerprint(first)
    assert [action for action in context.out if isinstance(action, SpecChanged)] == [
        SpecChanged(first),
        SpecChanged(second),
    ]
    wiring.update(frozenset())
    assert wiring.neighbours == neighbours(ME, IDS, second)


def test_a_graph_that_is_missing_leaves_the_old_one_until_it_appears() -> None:
    star = StaticGraph(tuple(IDS), frozenset((ME, node) for node in IDS[1:]))
    found: list[StaticGraph] = []
    context, _, wiring = start(TopologySpec(), lambda digest: found[0] if found else None)
    before = wiring.neighbours
    spec = TopologySpec(version=1, kind="static", graph=star.digest)
    context.out.clear()
    assert wiring.offer(spec, 5.0)
    assert context.out == [GraphMissing(spec)] and wiring.register == spec and wiring.spec == TopologySpec()
    wiring.update(frozenset())
    assert wiring.neighbours == before
    wiring.look_again(8.0)
    assert context.agenda["spec"] == 11.0
    found.append(StaticGraph(tuple(IDS), frozenset(pairwise(IDS))))
    wiring.look_again(11.0)
    assert wiring.spec == TopologySpec()  # another graph than the one named
    found[0] = star
    wiring.look_again(14.0)
    assert wiring.spec == spec
    wiring.update(frozenset())
    assert wiring.neighbours == tuple(IDS[1:])


def test_a_run_that_starts_without_its_graph_starts_on_rings() -> None:
    spec = TopologySpec(kind="static", graph=b"g" * 8, seed=3)
    context, _, wiring = start(spec)
    assert wiring.register == spec and wiring.spec == TopologySpec(seed=3)
    assert GraphMissing(spec) in context.out
    assert wiring.neighbours == neighbours(ME, IDS, TopologySpec(seed=3))


def test_a_member_near_by_stands_in_for_one_out_of_reach() -> None:
    _, _, wiring = start(TopologySpec())
    graph = wiring.neighbours
    assert wiring.update(frozenset(graph[:1]))
    [extra] = set(wiring.neighbours) - set(graph)
    near = wiring.near(graph[0])
    assert extra in near or any(extra in wiring.near(node) for node in near)
    assert set(graph) < set(wiring.neighbours)
    assert not wiring.update(frozenset(graph[:1]))
    assert wiring.update(frozenset())
    assert wiring.neighbours == graph


def test_who_reaches_both_stands_in_first_and_takes_those_it_stands_in_for() -> None:
    context, _, wiring = start(TopologySpec())
    graph = wiring.neighbours
    relay = next(node for node in reversed(IDS) if node not in (*graph, ME))
    assert wiring.update(frozenset(graph[:2]), {graph[0]: relay, graph[1]: relay})
    assert relay in wiring.neighbours and len(wiring.neighbours) == len(graph) + 2
    assert relay in context.stand_ins
    assert wiring.update(frozenset()) and not context.stand_ins
    context.guests = frozenset([relay])
    assert wiring.update(frozenset()) and set(wiring.neighbours) == {*graph, relay}


def test_who_leaves_keeps_its_links() -> None:
    context, table, wiring = start(TopologySpec())
    context.is_leaving = True
    table.merge(Record(wiring.neighbours[0], 1, 0, MemberState.DEAD), 1.0)
    assert not wiring.update(frozenset())
