from __future__ import annotations

from typing import Any

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.topology.graph import is_connected
from dagrad_bus.topology.kinds import KINDS, generate


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_made_the_same_from_the_same_seed(kind: str) -> None:
    first, again, other = (generate(kind, 36, degree=6, seed=seed) for seed in (1, 1, 2))
    edges = [[one.edges.tolist() for one in topology.rounds] for topology in (first, again, other)]
    assert edges[0] == edges[1]
    assert (edges[0] != edges[2]) == KINDS[kind].random
    assert first.size == 36 and first.kind == kind
    assert first.periodic == KINDS[kind].periodic
    assert is_connected(first.union())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "tree", "size": 8}, "kind is 'tree': needs one of hash-rings, random-regular"),
        ({"kind": "ring", "size": 1}, "size is 1: needs 2"),
        ({"kind": "ring", "size": 16_385}, "needs 2 to 16384"),
        ({"kind": "ring", "size": 8, "degree": 0}, "degree is 0"),
        ({"kind": "ring", "size": 8, "seed": -1}, "seed is -1"),
        ({"kind": "hash-rings", "size": 8, "degree": 3}, "needs an even number"),
    ],
)
def test_what_is_out_of_range_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        generate(**arguments)
