from __future__ import annotations

import pytest

from dagrad_bus.ids import NodeId
from dagrad_bus.sim.finale import Finale, is_connected
from dagrad_bus.sim.invariants import Violation
from dagrad_bus.sim.options import Options
from dagrad_bus.sim.run import Run


def started(workers: int = 4) -> tuple[Run, Finale]:
    run = Run(Options(1, workers, step=0.3))
    run.cluster.start_all(0.3)
    run.world.run(5.0)
    return run, Finale(run.cluster, run.nemesis)


def test_peace_after_peace_comes_at_once() -> None:
    _, finale = started()
    finale.play()
    assert len(finale.core) == 4
    assert finale.reached["table"] == 0
    assert list(finale.reached) == ["table", "edges", "quiet", "owed", "spread"]


def test_the_core_is_the_largest_part_and_the_rest_stays_cut_off() -> None:
    run, finale = started(6)
    run.nemesis.close(run.nemesis.halves())
    finale.freeze()
    cut = [worker for worker in run.cluster.workers if worker not in finale.core]
    assert len(finale.core) >= len(cut) > 0
    assert not run.network.is_open(finale.core[0].host, cut[0].host)
    assert all(run.network.is_open(finale.core[0].host, other.host) for other in finale.core)


def test_one_who_is_stopped_stays_so_for_good() -> None:
    run, finale = started()
    victim = run.cluster.workers[2]
    run.nemesis.pause(victim, 3.0)
    finale.play()
    assert victim not in finale.core
    assert not victim.is_up


def test_what_does_not_come_true_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    _, finale = started()
    monkeypatch.setattr(finale, "_restless", lambda: "never quiet")
    with pytest.raises(Violation, match=r"quiet: 15\.0 s after peace came to w000, w001, w002, w003: never quiet"):
        finale.play()


def test_a_graph_of_two_parts_is_not_connected() -> None:
    a, b, c = (NodeId(bytes([i]) * 16) for i in range(3))
    assert is_connected({a: (b,), b: (a,)}) and is_connected({})
    assert not is_connected({a: (b,), b: (a,), c: ()})
