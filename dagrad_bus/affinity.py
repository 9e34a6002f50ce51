"""How unlike us each peer trains, and whether there is reason to believe it: the scores behind a choice of peers.

Two cosines say how alike peer j and we move. They are never compared with each other:

* from frames: between the peer's values and ours, both seen from our anchor, on the frame's blocks (an average over
  its frames); free, but there are none of members that are no neighbours;
* from sketches (:mod:`dagrad_bus.sketch`), for every member.

``gain`` = novelty * trust, both in [0, 1].

**Novelty** is one where a peer is as unlike us as honest peers usually are, and no more: with z = (c - median) /
spread over those who are compared, it is 1 at z = -1, 1/2 at z = 0 and 0 from z = 1 up *and* from z = -3 down. Noise
and reversed signs are less like us than anybody; being an outlier must not pay.

**Trust** is the product of three ramps; what is not known counts as 0, so a peer nobody can judge gets the gain 0:

* steady: the peer's sketches at least :data:`APART` steps apart agree. Noise made anew does not;
* kin: the cosines of its sketch with all others reach further up than down. Honest peers resemble somebody; a
  reversed one is the opposite of somebody. Only that counts against it: data nobody else has leave one without kin;
* near: its frames are not much further from our values than those of other neighbours are. Random values are.

A choice that gives the largest weight to the largest gain gives whoever has gain 0 at most the uniform share.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.ids import NodeId
from dagrad_bus.sketch import SPAN, cosine, cosines, is_sketch

APART = 3 * SPAN
"""Steps between two sketches of one peer that share next to nothing of their sums."""
FRAME_SHARE = 0.1
"""Share of a new frame in a peer's averages; the first ones count more."""
STEADY_SHARE = 0.5
"""Share of a new comparison of a peer with itself."""
FRAME_SPREAD, SKETCH_SPREAD = 0.05, 0.1
"""Least spread that cosines are measured by: smaller differences are no reason to prefer anybody."""
PANEL = 64
"""Members a sketch is compared with for kinship, at most."""
LEAST_KIN = 4
"""Other members whose sketches must be known before kinship means anything."""
STEADY = 0.2, 0.5
KIN = -0.35, -0.1
NEAR = 1.5, 2.5
"""Ends of the ramps: nothing at the first, all at the second (near: all up to the first, nothing from the second)."""

Numbers = NDArray[np.float64]
Rows = NDArray[np.float32]


@dataclass(slots=True)
class _Peer:
    """What is known of one member."""

    frames: int = 0
    cosine: float = 0.0
    distance: float = 0.0
    sketch: bytes = b""
    step: int = -1
    earlier: bytes = b""
    earlier_step: int = -1
    steady: float | None = None


class Affinity:
    """What one worker knows of its peers' directions. Never raises for what a peer sent."""

    def __init__(self) -> None:
        self._own = b""
        self._peers: dict[NodeId, _Peer] = {}
        self._kin: dict[NodeId, float] | None = None

    def sketched(self, sketch: bytes) -> None:
        """Take our own newest sketch; empty: there is none."""
        self._own = sketch
        self._kin = None

    def framed(self, peer: NodeId, alike: float, distance: float) -> None:
        """Take what a frame of ``peer`` showed.

        Args:
            peer: who sent it.
            alike: cosine between its values and ours, both less our anchor.
            distance: || its values - ours || / || ours ||, from 0.
        """
        if not (np.isfinite(alike) and np.isfinite(distance)):
            return
        known = self._peers.setdefault(peer, _Peer())
        known.frames += 1
        share = max(FRAME_SHARE, 1 / known.frames)
        known.cosine += share * (alike - known.cosine)
        known.distance += share * (distance - known.distance)

    def heard(self, peer: NodeId, sketch: bytes, step: int) -> None:
        """Take a sketch that ``peer`` made at its ``step``; an older one, or no sketch at all, tells nothing."""
        known = self._peers.setdefault(peer, _Peer())
        if not is_sketch(sketch) or step == known.step:
            return
        if step < known.step:  # it trains anew
            known.earlier, known.steady = b"", None
        known.sketch, known.step = sketch, step
        self._kin = None
        if not known.earlier:
            known.earlier, known.earlier_step = sketch, step
        elif step - known.earlier_step >= APART:
            agreed = cosine(sketch, known.earlier)
            known.steady = agreed if known.steady is None else known.steady + STEADY_SHARE * (agreed - known.steady)
            known.earlier, known.earlier_step = sketch, step

    def keep(self, members: Collection[NodeId]) -> None:
        """Forget everybody else."""
        if self._peers.keys() - members:
            self._peers = {peer: known for peer, known in self._peers.items() if peer in members}
            self._kin = None

    def gains(self, candidates: Sequence[NodeId]) -> Numbers:
        """Return how much is to be gained by exchanging with each, float64[n] in [0, 1]."""
        z = self._standing(candidates)
        if z is None:
            return np.zeros(len(candidates))
        return np.clip(1 - np.abs(z + 1) / 2, 0, 1) * self._trust(candidates)

    def likeness(self, candidates: Sequence[NodeId]) -> Numbers:
        """Return how alike each moves beside the others, float64[n] in [0, 1]; 1/2 all where it is not known."""
        z = self._standing(candidates)
        return np.full(len(candidates), 0.5) if z is None else np.clip((z + 2) / 4, 0, 1)

    def _standing(self, candidates: Sequence[NodeId]) -> Numbers | None:
        """Return each one's z: by frames if all have sent some, else by sketches; those without stand at 0."""
        known = [self._peers.get(peer, _Peer()) for peer in candidates]
        if known and all(peer.frames for peer in known):
            return _standardised(np.array([peer.cosine for peer in known]), FRAME_SPREAD)
        sketched = [place for place, peer in enumerate(known) if peer.sketch]
        if not (is_sketch(self._own) and sketched):
            return None
        z = np.zeros(len(known))
        alike = cosines([self._own], [known[place].sketch for place in sketched])[0]
        z[sketched] = _standardised(alike, SKETCH_SPREAD)
        return z

    def _trust(self, candidates: Sequence[NodeId]) -> Numbers:
        kin = self._kinship()
        known = [self._peers.get(peer, _Peer()) for peer in candidates]
        steady = _ramp(np.array([peer.steady or 0.0 for peer in known]), *STEADY)
        alike = _ramp(np.array([kin.get(peer, -1.0) for peer in candidates]), *KIN)
        return steady * alike * self._nearness(known)

    def _nearness(self, known: Sequence[_Peer]) -> Numbers:
        typical = [peer.distance for peer in self._peers.values() if peer.frames]
        middle = float(np.median(typical)) if typical else 0.0
        if middle <= 0:
            return np.ones(len(known))
        ratios = np.array([peer.distance / middle if peer.frames else 1.0 for peer in known])
        return 1 - _ramp(ratios, *NEAR)

    def _kinship(self) -> dict[NodeId, float]:
        """Return, for each member with a sketch, its greatest plus its least cosine with the others."""
        if self._kin is None:
            members = sorted(peer for peer, known in self._peers.items() if known.sketch)
            sketches = [self._peers[peer].sketch for peer in members]
            asked = range(0, len(members), max(1, -(-len(members) // PANEL)))
            panel = [*(sketches[place] for place in asked), *([self._own] if is_sketch(self._own) else [])]
            self._kin = {}
            if len(panel) > LEAST_KIN:
                table = cosines(sketches, panel)
                table[list(asked), range(len(asked))] = np.nan  # nobody is its own kin
                values = np.nanmax(table, axis=1) + np.nanmin(table, axis=1)
                self._kin = {peer: float(value) for peer, value in zip(members, values, strict=True)}
        return self._kin


def compare(values: Rows, own: Rows, anchor: Rows) -> tuple[float, float]:
    """Return what :meth:`Affinity.framed` takes of a frame: cosine and distance; NaN where a value is not finite.

    Args:
        values: float32[n, B], the peer's.
        own: ours on the same blocks.
        anchor: ours as last shared.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        theirs, ours = (values - anchor).reshape(-1), (own - anchor).reshape(-1)
        product, lengths = float(theirs @ ours), float(np.linalg.norm(theirs) * np.linalg.norm(ours))
        apart, length = float(np.linalg.norm(values - own)), float(np.linalg.norm(own))
    return product / lengths if lengths else 0.0, apart / length if length else 0.0


def _standardised(values: Numbers, least: float) -> Numbers:
    """Return (value - median) / spread, by the median absolute deviation: a few liars hardly move either."""
    off = values - np.median(values)
    return off / max(1.4826 * float(np.median(np.abs(off))), least)


def _ramp(values: Numbers, start: float, stop: float) -> Numbers:
    """Return 0 up to ``start``, 1 from ``stop`` on, a line between."""
    return np.clip((values - start) / (stop - start), 0, 1)
