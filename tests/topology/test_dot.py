from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.errors import UsageError
from dagrad_bus.topology.dot import read_dot, write_dot

NAMES = st.lists(st.text(max_size=6), min_size=2, max_size=6, unique=True)


@given(NAMES, st.booleans(), st.lists(st.floats(0, 1), max_size=4))
@settings(max_examples=50)
def test_any_names_and_weights_come_back(names: list[str], directed: bool, weights: list[float]) -> None:
    links = [(names[0], names[1], weight) for weight in weights] + [(names[1], names[0], None)]
    assert read_dot(write_dot("kind", names, links, directed=directed)) == (names, links, directed)


def test_what_people_write_is_read() -> None:
    text = """
    // racks
    strict graph racks {
        node [shape=circle, color="red"]; edge [len=2]
        rankdir=LR; label = "my -- graph"
        a -- b -- "c d" [weight=0.5; color=blue]
        /* lonely */ e [pos="1,2"]
        # preprocessor
        "--" -- a
    }
    """
    names, links, directed = read_dot(text)
    assert names == ["a", "b", "c d", "e", "--"]
    assert links == [("a", "b", 0.5), ("b", "c d", 0.5), ("--", "a", None)]
    assert not directed
    assert read_dot("digraph{a->b}") == (["a", "b"], [("a", "b", None)], True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tree { }", "begins with 'tree': needs graph or digraph"),
        ("graph a b", "needs { after the name"),
        ("graph { a -> b }", "mixes -- and ->: this graph needs --"),
        ("graph { a -- }", "needs a name, not '}'"),
        ("graph { a", "needs a name, not 'the end'"),
        ("graph { subgraph s { a } }", "subgraphs are not understood"),
        ("graph { a [color] }", "attribute 'color' has no value"),
        ("graph {\n a ! b }", "line 2: '! b }' is not understood"),
    ],
)
def test_what_is_not_understood_is_named(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("{", r"\{")):
        read_dot(text)
