from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.topology import formats
from dagrad_bus.topology.formats import FORMATS, SEQUENCES, edge_list, from_links, read, write
from dagrad_bus.topology.graph import Round, Topology, undirected
from dagrad_bus.topology.kinds import generate

nx = formats.networkx()
SINGLE = sorted(set(FORMATS))


def assert_same(found: Topology, wanted: Topology) -> None:
    assert found.size == wanted.size
    assert found.labels == wanted.labels
    assert found.directed == wanted.directed
    assert len(found.rounds) == len(wanted.rounds)
    for a, b in zip(found.rounds, wanted.rounds, strict=True):
        assert a.edges.tolist() == b.edges.tolist()
        assert (a.weights is None) == (b.weights is None)
        if a.weights is not None and b.weights is not None:
            assert a.weights.tolist() == b.weights.tolist(), "to the last bit"


@pytest.mark.parametrize("suffix", SINGLE)
@pytest.mark.parametrize("kind", ["hash-rings", "exponential", "equi-static", "equi-directed", "star"])
def test_one_graph_comes_back_from_every_format(suffix: str, kind: str, tmp_path: Path) -> None:
    topology = generate(kind, 13, degree=4)
    write(topology, tmp_path / f"a{suffix}")
    assert_same(read(tmp_path / f"a{suffix}"), topology)


@pytest.mark.parametrize("suffix", SINGLE)
def test_names_come_back_from_every_format(suffix: str, tmp_path: Path) -> None:
    names = (
        ("gpu-1.rack", "ö", "2", 'q"u', "back\\slash")
        if suffix not in (".txt", ".edges")
        else ("b", "a", "ö", "2", "x-y")
    )
    topology = Topology("mine", (undirected(5, [(0, 1), (1, 2), (2, 3), (3, 4)]),), names)
    write(topology, tmp_path / f"a{suffix}")
    assert_same(read(tmp_path / f"a{suffix}"), topology)


@pytest.mark.parametrize("suffix", SEQUENCES)
@pytest.mark.parametrize("kind", ["base", "one-peer-exponential", "epidemic"])
def test_sequences_come_back(suffix: str, kind: str, tmp_path: Path) -> None:
    topology = generate(kind, 11, degree=2)
    write(topology, tmp_path / f"a{suffix}")
    again = read(tmp_path / f"a{suffix}")
    assert_same(again, topology)
    assert (again.kind, again.periodic) == (topology.kind, topology.periodic)


@pytest.mark.parametrize("suffix", sorted(set(SINGLE) - set(SEQUENCES)))
def test_what_holds_one_graph_refuses_a_sequence(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"base is a sequence of 5 graphs, and .* write .json or .npz"):
        write(generate("base", 5, degree=1), tmp_path / f"a{suffix}")
    assert not list(tmp_path.iterdir())


def test_networkx_reads_our_json(tmp_path: Path) -> None:
    topology = generate("hash-rings", 12)
    write(topology, tmp_path / "a.json")
    graph = nx.node_link_graph(json.loads((tmp_path / "a.json").read_text()), edges="edges")
    assert sorted(sorted((int(a), int(b))) for a, b in graph.edges) == topology.rounds[0].edges.tolist()


def test_json_of_older_networkx_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps(nx.node_link_data(nx.cycle_graph(5), edges="links")))
    assert_same(read(path), generate("ring", 5))


def test_an_edge_list_by_hand_is_read(tmp_path: Path) -> None:
    path = tmp_path / "hand.txt"
    path.write_text("# my racks\n10 2   # a comment\n\n2 9\n9 10\n")
    found = read(path)
    assert found.labels == ("2", "9", "10"), "numbers in their order"
    assert found.rounds[0].edges.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert "# round 2 of 3" in edge_list(generate("base", 8, degree=1))


BAD = {
    "a.json": ["{", "[]", "{}", '{"nodes": [{"id": 1}], "edges": [{"source": 1, "target": 2}]}', '{"nodes": 5, "edges": []}',
               '{"nodes": [{"id": 1}], "edges": [], "graph": {"rounds": 0}}', "[" * 50_000,
               '{"nodes": [{"id": 1}, {"id": 2}], "edges": [{"source": 1, "target": 2, "round": 4}]}',
               '{"nodes": [{"id": 1}, {"id": 2}], "edges": [{"source": 1, "target": 2, "weight": "x"}]}',
               '{"nodes": [{"id": 1}, {"id": 1}], "edges": []}', '{"nodes": [], "edges": []}'],
    "a.npz": ["", "PK", "not a zip"],
    "a.graphml": ["", "<x", "<graphml/>", "text"],
    "a.gexf": ["", "<x", "<a/>", "text"],
    "a.dot": ["", "graph", "graph {", "tree {}", "graph { a -> b }", "graph { a -- }", "graph { subgraph x { a } }", "graph { a [b] }",
              "graph { a -- b [weight=x] }", "graph { a -- a }", "graph { ? }", "graph {}", "graph { a -- b; b -- a }"],
    "a.txt": ["", "a", "a b c", "a b 1\nb c", "a a", "a b\nb a", "a b c d"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BAD.items() for text in texts])
def test_a_bad_file_is_one_line_that_names_it(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UsageError) as refused:
        read(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_nothing_pickled_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write(generate("ring", 5), path)
    arrays = dict(np.load(path))
    save: Any = np.savez
    save(path, **arrays | {"edges": np.array([{}], dtype=object)})
    with pytest.raises(UsageError, match=r"no .npz file: Object arrays cannot be loaded"):
        read(path)
    save(path, **arrays | {"edges": np.zeros((2, 2))})
    with pytest.raises(UsageError, match="do not fit together"):
        read(path)


def test_limits_and_names_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    topology = generate("ring", 5)
    with pytest.raises(UsageError, match=r"a.png: the suffix says the format, and must be one of .json"):
        write(topology, tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"cannot read .* No such file"):
        read(tmp_path / "none.json")
    with pytest.raises(UsageError, match=r"cannot write .* No such file"):
        write(topology, tmp_path / "no" / "a.json")
    write(topology, tmp_path / "a.json")
    monkeypatch.setattr(formats, "MAX_FILE", 10)
    with pytest.raises(UsageError, match="at most 10 are read"):
        read(tmp_path / "a.json")


def test_a_name_that_an_edge_list_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'a b' has a blank"):
        write(Topology("x", (undirected(2, [(0, 1)]),), ("a b", "c")), tmp_path / "a.txt")


def test_links_to_nobody_and_half_the_weights_are_refused() -> None:
    with pytest.raises(UsageError, match="names 'c', which is no worker"):
        from_links("x", ["a", "b"], [[("a", "c", None)]], directed=False)
    with pytest.raises(UsageError, match="1 of 2 edges have a weight"):
        from_links("x", ["a", "b", "c"], [[("a", "b", None), ("b", "c", 1.0)]], directed=False)


def test_without_networkx_the_other_formats_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "networkx", None)
    topology = Topology("x", (Round(2, np.array([[0, 1]])),))
    with pytest.raises(UsageError, match=r"pip install 'dagrad-bus\[topology\]'"):
        write(topology, tmp_path / "a.gexf")
    write(topology, tmp_path / "a.dot")
    assert_same(read(tmp_path / "a.dot"), topology)
