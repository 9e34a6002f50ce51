"""What becomes of a worker that has ended: the restart policy, without clocks, chance or processes of its own.

A failed worker starts again after a pause that doubles from failure to failure. Not retried is what would fail again:

====================================  =====================================================================
exit code 2                           usage: the command line or a setting is wrong
exit codes 126, 127                   the command cannot be executed, or is not there
no address published                  it never joined the run: a bug in the script is shown once, not four times
an exit code before the first step    likewise
``most`` restarts in a row            a worker that lived for ``healthy`` seconds begins a new row
====================================  =====================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

from dagrad_bus.workers.launch.orders import RestartPolicy

JITTER = 0.2
"""Share by which a pause is longer or shorter at random, so that workers that died together do not return together."""
_HOPELESS = {
    2: "exit code 2: a wrong option or setting would be wrong again",
    126: "exit code 126: the command cannot be executed",
    127: "exit code 127: there is no such command",
}
_NEVER_JOINED = "it never published an address, so it never joined the run"
_NEVER_STEPPED = "it failed before it had made a step, so it would fail again"


@dataclass(frozen=True, slots=True)
class Again:
    """Start it again."""

    wait: float
    """Seconds until then."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Leave the slot empty."""

    why: str
    """In words; empty where there was no failure, or where the policy asks for no restarts."""


class Restarts:
    """The history of one slot."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._row = 0
        """Restarts since the last healthy worker."""

    def decide(
        self,
        *,
        code: int | None,
        lived: float,
        published: bool,
        chance: float,
        stepped: bool = True,
        wedged: bool = False,
    ) -> Again | GiveUp:
        """Take note of an end and say what follows.

        Args:
            code: exit code; None if a signal ended it.
            lived: seconds from its start to its end.
            published: whether its address was ever to be found.
            chance: uniform in [0, 1).
            stepped: whether it made a step, as far as that is known.
            wedged: it was killed because it made no steps; then the time it lived is no sign of health.
        """
        policy = self._policy
        if code == 0 or policy.on_failure != "restart":
            return GiveUp("")
        if code is not None and code in _HOPELESS:
            return GiveUp(_HOPELESS[code])
        if not published:
            return GiveUp(_NEVER_JOINED)
        if code is not None and not stepped:
            return GiveUp(_NEVER_STEPPED)
        if lived >= policy.healthy and not wedged:
            self._row = 0
        if self._row >= policy.most:
            return GiveUp(_in_a_row(policy.most))
        wait = pause_before(self._row, policy) * (1 + JITTER * (2 * chance - 1))
        self._row += 1
        return Again(wait)


def pause_before(row: int, policy: RestartPolicy) -> float:
    """Return the seconds before restart number ``row`` (from 0) of a row, without jitter."""
    doublings = min(row, 64)  # beyond that every pause is the longest, and floats would overflow
    return float(min(policy.first * 2**doublings, policy.longest))


def _in_a_row(most: int) -> str:
    if most == 0:
        return "no restarts are allowed"
    return f"{most} restart{'s' if most > 1 else ''} in a row"
