"""Identifiers. An id is never a bare ``int`` or ``bytes``: the type checker keeps node, edge and job apart."""

from __future__ import annotations

from hashlib import blake2b
from typing import NewType

NodeId = NewType("NodeId", bytes)
"""One worker, 16 bytes; stable over restarts of the same name in the same run."""

EdgeId = NewType("EdgeId", int)
"""One pair of worker processes, u64. 0 means none. A restart of either end changes it."""

JobId = NewType("JobId", int)
"""One planned frame of this worker, counted from 1. Never on the wire."""

Step = NewType("Step", int)
"""Calls of the worker's own ``optimizer.step()`` so far."""

NO_EDGE = EdgeId(0)


def derive_node_id(run: str, name: str) -> NodeId:
    """Return the id of worker ``name`` in run ``run``: BLAKE2b-128 of both."""
    return NodeId(blake2b(f"{run}\0{name}".encode(), digest_size=16, person=b"dagrad-node").digest())


def derive_edge_id(a: NodeId, a_epoch: int, b: NodeId, b_epoch: int) -> EdgeId:
    """Return the id of the edge between two processes; both ends compute the same one.

    Args:
        a: one end.
        a_epoch: boot epoch of its process, u64.
        b: the other end, not equal to ``a``.
        b_epoch: boot epoch of its process, u64.
    """
    if a == b:
        raise AssertionError("a worker has no edge to itself: the graph is simple")
    ends = sorted([(a, a_epoch), (b, b_epoch)])
    text = b"".join(node + epoch.to_bytes(8, "little") for node, epoch in ends)
    return EdgeId(int.from_bytes(blake2b(text, digest_size=8, person=b"dagrad-edge").digest(), "little") or 1)
