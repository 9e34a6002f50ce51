"""One timer for all deadlines of all cores: armed for the earliest, rung once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Alarm:
    """Calls ``ring`` at the earliest deadline it was armed for; ``fail`` is told what that raised.

    Args:
        loop: whose time the deadlines are.
        ring: does what is due and arms the alarm anew.
        fail: told of a bug in ``ring``.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None], fail: Callable[[Exception], None]
    ) -> None:
        self._loop = loop
        self._ring = ring
        self._fail = fail
        self._armed: tuple[float, asyncio.TimerHandle] | None = None

    def arm(self, deadline: float | None) -> None:
        """Ring at ``deadline``, or before if it is armed for an earlier one; None asks for nothing."""
        if deadline is None or (self._armed is not None and self._armed[0] <= deadline):
            return
        self.disarm()
        self._armed = (deadline, self._loop.call_at(deadline, self._rung))

    def disarm(self) -> None:
        """Ring no more."""
        if self._armed is not None:
            self._armed[1].cancel()
            self._armed = None

    def _rung(self) -> None:
        self._armed = None
        try:
            self._ring()
        except Exception as error:  # noqa: BLE001  # outermost line of a callback: the bus ends with it
            self._fail(error)
