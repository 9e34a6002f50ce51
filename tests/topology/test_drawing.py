from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.topology.drawing import LAYOUTS, Layout, draw, draw_panels, draw_side_by_side, place
from dagrad_bus.topology.graph import Topology, undirected
from dagrad_bus.topology.kinds import generate


@pytest.fixture(scope="module", autouse=True)
def fonts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Draw once: matplotlib keeps its fonts' files open."""
    draw(generate("base", 5, degree=1), tmp_path_factory.mktemp("fonts") / "a.png", title="bold")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["ring", "star", "exponential"])
def test_places_are_distinct_in_the_frame_and_the_same_again(layout: Layout, kind: str) -> None:
    one = generate(kind, 20).union()
    places = place(one, layout)
    assert places.shape == (20, 2)
    assert np.abs(places).max() <= 1 + 1e-9
    assert np.array_equal(places, place(one, layout))
    apart = np.linalg.norm(places[:, None] - places[None], axis=2) + np.eye(20)
    assert apart.min() > 0.02


def test_distances_in_the_picture_follow_those_in_the_graph() -> None:
    places = place(generate("ring", 24).union(), "kamada")
    apart = np.linalg.norm(places - places[0], axis=1)
    assert apart[1] < apart[4] < apart[12]


def test_parts_are_drawn_too(tmp_path: Path) -> None:
    draw(Topology("x", (undirected(4, [(0, 1)]),)), tmp_path / "parts.png", layout="kamada")
    assert (tmp_path / "parts.png").read_bytes()[:4] == b"\x89PNG"


def test_a_picture_names_few_workers_and_the_degrees(tmp_path: Path) -> None:
    draw(generate("star", 12), tmp_path / "new" / "a.svg", title="a title")
    text = (tmp_path / "new" / "a.svg").read_text()
    for part in ("<!-- a title -->", "<!-- 11 -->", "<!-- degree -->"):
        assert part in text
    draw(generate("ring", 64), tmp_path / "b.svg")
    assert "<!-- 63 -->" not in (tmp_path / "b.svg").read_text(), "too many to name"
    names = tuple(f"host.{i}" for i in range(5))
    draw(Topology("x", generate("ring", 5).rounds, names), tmp_path / "c.svg")
    assert "<!-- host.4 -->" in (tmp_path / "c.svg").read_text()


def test_a_sequence_is_drawn_round_by_round(tmp_path: Path) -> None:
    draw(generate("base", 5, degree=1), tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert "<!-- round 5 of 5 -->" in text and "<!-- degree -->" in text


def test_side_by_side_each_has_its_gap(tmp_path: Path) -> None:
    draw_side_by_side([generate("complete", 6), generate("base", 6, degree=1)], tmp_path / "a.svg", title="two")
    text = (tmp_path / "a.svg").read_text()
    assert "degree 5, gap 1.000" in text and "4 rounds, gap 1.000" in text


@pytest.mark.parametrize(
    ("size", "name", "message"),
    [(5, "a.pdf", "needs one of .png, .svg"), (1025, "a.png", "more than 1024"), (5, "file/a.png", "cannot write")],
)
def test_what_cannot_be_drawn_is_refused(size: int, name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    one = generate("ring", size).rounds[0]
    with pytest.raises(UsageError, match=message):
        draw_panels([(one, place(one, "circular"), "")], tmp_path / name)
