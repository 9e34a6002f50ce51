"""Who speaks on which connection, and how much patience is left with it.

A routing id is chosen by the sender, so it names nobody until a HELLO with the run's proof arrived on it; it holds
eight random bytes that only its owner knows. A ROUTER cannot hang up on a connection: one that misbehaves is ignored.
"""

from __future__ import annotations

from collections import OrderedDict

from dagrad_bus.errors import NotAdmitted
from dagrad_bus.ids import NodeId

STRIKES = 10
"""Malformed messages after which a connection is ignored for a while; one is forgiven a minute."""
DAMAGE = 0.1
"""Strikes for a payload that was damaged: a cable does that too, and an honest peer behind one is not to be banned."""
BAN = 60.0
"""Seconds of being ignored."""
MAX_TRACKED = 4096
"""Connections remembered; beyond it the one heard least recently is forgotten."""


class Admission:
    """Routing ids and strikes."""

    def __init__(self) -> None:
        self._peers: OrderedDict[bytes, NodeId] = OrderedDict()
        self._strikes: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def bind(self, routing: bytes, peer: NodeId) -> None:
        """Take ``routing`` for ``peer``, whose proof was checked; its former connections are void."""
        for former in [r for r, p in self._peers.items() if p == peer]:
            del self._peers[former]
        self._peers[routing] = peer
        while len(self._peers) > MAX_TRACKED:
            self._peers.popitem(last=False)

    def peer_of(self, routing: bytes) -> NodeId:
        """Return who speaks on ``routing``.

        Raises:
            NotAdmitted: no HELLO arrived on it.
        """
        try:
            return self._peers[routing]
        except KeyError:
            raise NotAdmitted("a message before any HELLO") from None

    def strike(self, routing: bytes, now: float, weight: float = 1.0) -> None:
        """Count one misdeed of a connection, or a part of one."""
        count, since = self._strikes.pop(routing, (0.0, now))
        forgiven = (now - since) / 60
        self._strikes[routing] = (max(0.0, count - forgiven) + weight, now)
        while len(self._strikes) > MAX_TRACKED:
            self._strikes.popitem(last=False)

    def is_banned(self, routing: bytes, now: float) -> bool:
        """Whether messages of ``routing`` are dropped unread."""
        if not self._strikes:
            return False
        count, since = self._strikes.get(routing, (0.0, 0.0))
        return count >= STRIKES and now - since < BAN
