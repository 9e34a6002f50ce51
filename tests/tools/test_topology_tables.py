from __future__ import annotations

from io import StringIO

from rich.console import Console, RenderableType

from dagrad_bus.tools.topology_rewire import Rewiring, Side
from dagrad_bus.tools.topology_tables import comparison, inspection, measure, rewiring
from dagrad_bus.topology.graph import Topology, undirected
from dagrad_bus.topology.spectrum import spectrum
from dagrad_bus.topology.structure import structure


def shown(what: RenderableType, width: int = 100) -> str:
    console = Console(width=width, file=StringIO())
    console.print(what)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_measuring_keeps_the_order_and_draws_chance_alone_often() -> None:
    rows = measure(["ring", "random-regular"], [8, 10], degree=4, seeds=3)
    assert [(row.kind, row.size, row.seeds) for row in rows] == [
        ("ring", 8, 1), ("random-regular", 8, 3), ("ring", 10, 1), ("random-regular", 10, 3),
    ]  # fmt: skip


def test_published_gaps_stand_beside_ours_where_there_are_any() -> None:
    assert "named" not in shown(comparison(measure(["ring"], [16], degree=4, seeds=1), degree=4))
    text = shown(comparison(measure(["ring"], [32], degree=4, seeds=1), degree=4))
    assert "0.013 0.013" in text and "named: the gap" in text


def test_an_inspection_names_parts_in_plain_words() -> None:
    parts = Topology("x", (undirected(4, [(0, 1), (2, 3)]),))
    text = shown(inspection(parts, spectrum(parts), structure(parts, trials=2)))
    assert "no: it falls into parts" in text and "some are not reached" in text and "never" in text


def side(text: str) -> Side:
    return Side(text, 48, "4", 0.2, 30)


def test_a_rewiring_tells_what_became_of_it() -> None:
    dry = Rewiring(24, side("ring"), side("torus"), kept=10, new=38, closed=14)
    assert "24 workers; 10 edges kept, 38 new, 14 closed" in shown(rewiring(dry))
    assert "dry run: nothing was published" in shown(rewiring(dry))
    done = Rewiring(2, side("a"), side("b"), 1, 0, 0, version=3, adopted=("x", "y"), seconds=0.25)
    assert "version 3: 2 workers have it after 0.25 s" in shown(rewiring(done))
    late = Rewiring(2, side("a"), Side("b", 1, "1", 0.0, None), 1, 0, 0, version=3, adopted=("x",), silent=("y",))
    assert "not heard of: y" in shown(rewiring(late)) and "never" in shown(rewiring(late))
