from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.sim.cluster import Cluster
from dagrad_bus.sim.invariants import Checker
from dagrad_bus.sim.network import Network
from dagrad_bus.sim.options import Options
from dagrad_bus.sim.worker import Clock
from dagrad_bus.sim.world import World


@settings(max_examples=30)
@given(st.floats(0.999, 1.001), st.floats(0, 1e5), st.floats(0, 1e5))
def test_a_clock_reads_back_what_it_shows(rate: float, shift: float, at: float) -> None:
    clock = Clock(rate, shift)
    assert abs(clock.world(clock.local(at)) - at) < 1e-6


def two() -> Cluster:
    world = World(0)
    made = Cluster(world, Network(world), Options(0, 2), Checker(), trains=False)
    made.start_all(0.1)
    world.run(5.0)
    return made


def test_withheld_credit_is_no_room() -> None:
    made = two()
    a, b = (worker.process for worker in made.workers)
    assert a is not None and b is not None
    assert a.mailbox.has_room(b.id)
    a.mailbox.withheld = True
    assert not a.mailbox.has_room(b.id)


def test_a_stopped_process_ticks_no_more_until_it_goes_on_and_then_accuses_nobody() -> None:
    made = two()
    a, b = (worker.process for worker in made.workers)
    assert a is not None and b is not None
    a.pause()
    before = a.node.now
    made.world.run(25.0)
    assert a.node.now == before
    a.go_on()
    assert a.node.now > before + 19
    assert not [c for _, who, c in made.checker.changes if who is a and c.new in {"suspect", "dead"}]
    made.world.run(40.0)
    assert len({process.node.membership.digest for process in (a, b)}) == 1


def test_damaged_messages_count_as_strikes_and_change_nothing() -> None:
    made = two()
    a, b = (worker.process for worker in made.workers)
    assert a is not None and b is not None
    made.network.weather.flip = 1.0
    made.world.run(8.0)
    dropped = [name for name in a.node.metrics.snapshot()["counters"] if name.startswith("frames_dropped")]
    assert dropped
