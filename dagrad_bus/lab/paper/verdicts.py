"""What the state rule promises, and whether the rows hold it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dagrad_bus.lab.paper.rows import Pair, Row

SAVING = 20.0
"""Times fewer bytes than synchronous training with a server, at least."""
LOSS = 0.003
"""Accuracy that may be lost against it, as a share."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target."""

    text: str
    met: bool | None
    """None: not judged."""

    @property
    def line(self) -> str:
        """Return it as it is printed."""
        word = "not judged" if self.met is None else "met" if self.met else "MISSED"
        return f"{word}: {self.text}"


def judge(rows: Sequence[Row], pair: Pair | None, *, judged: bool = True) -> list[Verdict]:
    """Return what can be said about each target.

    Args:
        rows: of the tables.
        pair: the accuracies of ``state`` and ``sync-ps``; None if one is missing.
        judged: whether the targets apply; a quick look shows numbers only.
    """
    by_rule = {row.rule: row for row in rows}
    state, sync, dense = (by_rule.get(rule) for rule in ("state", "sync-ps", "gossip-dense"))
    found = [_saves(state, sync), _is_as_good(pair), _between_workers(state, dense)]
    if not judged:
        found = [Verdict(f"{verdict.text} (a quick look)", None) for verdict in found]
    return [*found, _counts(rows)]


def _saves(state: Row | None, sync: Row | None) -> Verdict:
    text = f"state sends at least {SAVING:g} times less than sync-ps"
    if state is None or sync is None:
        return Verdict(f"{text}: needs both rules", None)
    saving = sync.bytes_per_step.mean / state.bytes_per_step.mean
    return Verdict(f"{text}: {saving:.1f} times", saving >= SAVING)


def _is_as_good(pair: Pair | None) -> Verdict:
    text = f"state is at most {100 * LOSS:g} points behind sync-ps"
    if pair is None:
        return Verdict(f"{text}: needs both rules", None)
    error = "" if pair.error is None else f", standard error {100 * pair.error:.2f}"
    over = f"{len(pair.seeds)} seeds{error}" if len(pair.seeds) > 1 else "one seed"
    return Verdict(f"{text}: {100 * pair.behind.mean:+.2f} points ({over})", pair.behind.mean <= LOSS)


def _between_workers(state: Row | None, dense: Row | None) -> Verdict:
    text = "accuracy of state spreads no more between workers than that of gossip-dense"
    if state is None or dense is None:
        return Verdict(f"{text}: needs both rules", None)
    ours, theirs = state.std.mean, dense.std.mean
    return Verdict(f"{text}: {100 * ours:.2f} against {100 * theirs:.2f} points", ours <= theirs)


def _counts(rows: Sequence[Row]) -> Verdict:
    text = "bytes at the interface agree with what the sockets were handed"
    if all(row.agreement is None for row in rows):
        return Verdict(f"{text}: no interface was read", None)
    bad = [f"{row.rule} (seed {', '.join(map(str, row.disagreeing))})" for row in rows if row.disagreeing]
    return Verdict(f"{text}: {'not in ' + ', '.join(bad) if bad else 'in every run'}", not bad)
