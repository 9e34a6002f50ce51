from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from dagrad_bus.lab.paper.bench import Findings
from dagrad_bus.lab.paper.measuring import Measured
from dagrad_bus.lab.paper.rows import Over, healthy_share, make_pair, make_rows


def test_a_number_over_seeds_has_mean_and_spread() -> None:
    assert Over.seeds([1.0, 3.0, 5.0]) == Over(3.0, 2.0)
    assert Over.seeds([1.0]) == Over(1.0, None)
    assert Over.seeds([None, 4.0]) == Over(4.0, None)
    assert Over.seeds([None]) is None


def test_rows_hold_the_numbers_of_their_runs(findings: Findings) -> None:
    rows = {row.rule: row for row in make_rows(findings)}
    assert list(rows) == ["sync-ps", "gossip-dense", "state", "local"]
    state = rows["state"]
    sent = (25_400 + 25_500) / 2 / 100
    assert state.bytes_per_step.mean == pytest.approx(sent)
    assert state.bandwidth.mean == pytest.approx(sent / 8000)
    assert state.accuracy.mean == pytest.approx(0.9695)
    assert state.worst.mean == pytest.approx(0.968)
    assert state.std.mean == pytest.approx(0.0015)
    assert state.throughput.mean == pytest.approx(19.5 * 32)
    assert state.efficiency is not None and state.efficiency.mean == pytest.approx(19.5 / 25)
    assert state.healthy == pytest.approx(0.5)
    assert state.mixing == ("mixed",)
    assert rows["local"].median_age is None


def test_the_pair_has_all_its_seeds_and_the_rows_only_those_of_all_rules(
    findings: Findings, make_run: Callable[..., Measured]
) -> None:
    further = {rule: (make_run(accuracies=(value,)),) for rule, value in (("sync-ps", 0.99), ("state", 0.96))}
    request = replace(findings.request, pair_seeds=(7,))
    changed = replace(findings, request=request, further=further)
    pair = make_pair(changed)
    assert pair is not None and pair.seeds == (0, 1, 7)
    assert pair.behind.mean == pytest.approx((0.0005 + 0.0005 + 0.03) / 3)
    assert pair.error is not None and pair.behind.spread is not None
    assert pair.error == pytest.approx(pair.behind.spread / 3**0.5)
    for before, after in zip(make_rows(findings), make_rows(changed), strict=True):
        assert replace(after, agreement=before.agreement) == before  # counts are checked in all runs


def test_a_further_run_whose_counts_disagree_is_named_too(
    findings: Findings, make_run: Callable[..., Measured]
) -> None:
    request = replace(findings.request, pair_seeds=(7,))
    further = {"sync-ps": (make_run(),), "state": (make_run(socket_bytes=60_000),)}
    rows = {row.rule: row for row in make_rows(replace(findings, request=request, further=further))}
    assert (rows["state"].disagreeing, rows["sync-ps"].disagreeing) == ((7,), ())


def test_without_both_rules_there_is_no_pair(findings: Findings) -> None:
    request = replace(findings.request, rules=("state", "local"))
    assert make_pair(replace(findings, request=request)) is None


def test_a_run_whose_counts_disagree_is_named_by_its_seed(
    findings: Findings, make_run: Callable[..., Measured]
) -> None:
    good, bad = make_run(workers=2), make_run(workers=2, socket_bytes=60_000)
    changed = replace(findings, measured={**findings.measured, "state": (good, bad)})
    rows = {row.rule: row for row in make_rows(changed)}
    assert rows["state"].disagreeing == (1,)
    assert rows["sync-ps"].disagreeing == ()


def test_the_straggler_itself_is_not_among_the_healthy(make_run: Callable[..., Measured]) -> None:
    without = [make_run(rates=(10.0, 20.0, 30.0, 1.0))]
    assert healthy_share(without, make_run(rates=(5.0, 10.0, 15.0, 0.1))) == pytest.approx(0.5)


def test_a_worker_that_was_not_seen_to_train_leaves_no_share(make_run: Callable[..., Measured]) -> None:
    assert healthy_share([make_run()], make_run(rates=(5.0, 0.0, 5.0, 1.0))) is None
    assert healthy_share([make_run(rates=(0.0, 0.0, 0.0, 0.0))], make_run()) is None
