from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.bus import visitor
from dagrad_bus.errors import UsageError
from dagrad_bus.ids import NodeId, derive_node_id
from dagrad_bus.tools import cli, topology_rewire
from dagrad_bus.tools.topology_rewire import live_topology, rewire_run
from dagrad_bus.topology.formats import write
from dagrad_bus.topology.graph import Topology
from dagrad_bus.topology.kinds import generate
from dagrad_bus.topology.live import TopologySpec, edges
from dagrad_bus.topology.static import parse
from dagrad_bus.workers.launch.folder import RunFolder, create, write_json

NAMES = tuple(f"local.{i}" for i in range(24))
IDS = [derive_node_id("abc", name) for name in NAMES]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create(tmp_path / "run", run="abc", names=NAMES, facts={"settings": {"degree": 4}})
    return tmp_path / "run"


def plan(folder: Path, **wanted: Any) -> topology_rewire.Rewiring:
    return rewire_run(folder, wanted, dry_run=True, timeout=1)


def test_a_dry_run_compares_with_the_graph_of_the_start(folder: Path) -> None:
    done = plan(folder, degree=6)
    now = edges(IDS, TopologySpec())
    assert (done.members, done.kept, done.new, done.closed) == (24, 48, 24, 0)
    assert (done.before.edges, done.before.degrees, done.after.degrees) == (len(now), "4", "6")
    assert done.after.gap > done.before.gap
    assert (done.before.text, done.after.text) == ("hash-rings, degree 4", "hash-rings, degree 6")
    assert done.version is None and not (folder / "graphs").exists()


def test_an_epoch_or_a_seed_is_another_graph(folder: Path) -> None:
    for wanted, text in (({"epoch": 1}, "epoch 1"), ({"seed": 7}, "seed 7")):
        done = plan(folder, **wanted)
        assert done.after.text == f"hash-rings, degree 4, {text}"
        assert done.new == done.closed > 20


def test_kinds_that_workers_do_not_compute_are_written_down(folder: Path) -> None:
    assert plan(folder, kind="torus").after.text == "torus"
    assert plan(folder, kind="random-regular", seed=3).after.text == "random-regular, degree 4, seed 3"
    assert plan(folder, kind="complete").after.edges == 276
    assert plan(folder, kind="ring").after.text == "ring"


def test_a_file_is_laid_over_the_members_by_name_or_else_in_order(folder: Path, tmp_path: Path) -> None:
    ring = generate("ring", 24)
    write(ring, tmp_path / "plain.json")
    write(Topology("mine", ring.rounds, tuple(reversed(NAMES))), tmp_path / "named.json")
    write(Topology("mine", ring.rounds, (*NAMES[:-1], "other")), tmp_path / "strange.json")
    assert plan(folder, graph=tmp_path / "plain.json").after.text == "the file plain.json"
    plain, named = (plan(folder, graph=tmp_path / f"{name}.json").kept for name in ("plain", "named"))
    assert plain == named, "a ring read backwards is the same ring"
    with pytest.raises(UsageError, match=r"names 23 of the 24 workers; 'local.23' is only in one of both"):
        plan(folder, graph=tmp_path / "strange.json")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({}, "nothing to change"),
        ({"degree": 5}, "degree is 5: needs an even number"),
        ({"kind": "tree"}, "kind is 'tree'"),
        ({"kind": "exponential"}, "exponential is directed: only one undirected graph can run live"),
        ({"kind": "base"}, "base is a sequence"),
        ({"kind": "torus", "epoch": 2}, "torus is drawn by its seed and has no epoch"),
        ({"kind": "static"}, "give --kind or --graph"),
        ({"graph": Path("a.json"), "seed": 1}, "leave --kind, --epoch, --degree and --seed out"),
        ({"graph": Path("none.json")}, "cannot read none.json"),
    ],
)
def test_what_cannot_be_is_refused(wanted: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(UsageError, match=message):
        plan(folder, **wanted)


def test_a_damaged_folder_is_named(folder: Path) -> None:
    write_json(folder / "run.json", {"schema": "dagrad.run/1", "run": "abc", "workers": 5})
    with pytest.raises(UsageError, match=r"run.json is damaged"):
        plan(folder, epoch=1)


@dataclass(frozen=True)
class Member:
    name: str
    node: NodeId


@dataclass(frozen=True)
class Run:
    present: tuple[Member, ...]
    spec: TopologySpec


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> list[TopologySpec]:
    """A live run of 20 of the 24 workers; returns the specs published to it."""
    published: list[TopologySpec] = []

    def read_run(folder: Path, timeout: float) -> Run:
        spec = published[-1] if published else TopologySpec(version=4, epoch=2)
        return Run(tuple(Member(name, node) for name, node in zip(NAMES, IDS, strict=True))[4:][::-1], spec)

    def publish_spec(folder: Path, spec: TopologySpec, timeout: float) -> visitor.Rewired:
        published.append(replace(spec, version=spec.version + 1))
        if spec.graph:
            document = (folder / "graphs" / f"{spec.graph.hex()}.json").read_bytes()
            assert parse(document).digest == spec.graph, "it is there before anybody hears of it"
        return visitor.Rewired(published[-1].version, NAMES[4:-1], NAMES[-1:], 0.5)

    monkeypatch.setattr(visitor, "read_run", read_run)
    monkeypatch.setattr(visitor, "publish_spec", publish_spec)
    return published


def test_a_live_run_is_asked_for_its_members_and_graph(folder: Path, live: list[TopologySpec]) -> None:
    done = rewire_run(folder, {"epoch": 3}, dry_run=False, timeout=1)
    assert (done.members, done.version, done.silent, done.seconds) == (20, 5, (NAMES[-1],), 0.5)
    assert done.before.text == "hash-rings, degree 4, epoch 2"
    assert live == [TopologySpec(version=5, epoch=3)]


def test_a_written_graph_is_stored_and_is_the_next_one_before(folder: Path, live: list[TopologySpec]) -> None:
    first = rewire_run(folder, {"kind": "torus"}, dry_run=False, timeout=1)
    assert live[-1].kind == "static" and first.after.degrees == "4"
    assert [path.stem for path in (folder / "graphs").iterdir()] == [live[-1].graph.hex()]
    second = rewire_run(folder, {"kind": "hash-rings"}, dry_run=False, timeout=1)
    assert second.before.text == f"static {live[0].graph.hex()}"
    assert second.before.gap == first.after.gap
    assert live[-1].graph == b""


def test_a_written_graph_needs_a_launcher_that_carries_it(folder: Path, live: list[TopologySpec]) -> None:
    RunFolder(folder).update_run(hosts=[{"host": "n1"}], host="head", launcher=0)
    with pytest.raises(UsageError, match=r"by the launcher, and none is on this host: dagrad attach .* on head"):
        rewire_run(folder, {"kind": "torus"}, dry_run=False, timeout=1)
    assert not live and not (folder / "graphs").exists()
    rewire_run(folder, {"kind": "ring"}, dry_run=False, timeout=1)
    assert live


def test_a_stored_graph_that_changed_is_not_believed(folder: Path, live: list[TopologySpec]) -> None:
    assert not live
    rewire_run(folder, {"kind": "torus"}, dry_run=False, timeout=1)
    [path] = (folder / "graphs").iterdir()
    path.write_bytes(path.read_bytes().replace(b"[0,", b"[1,", 1))
    with pytest.raises(UsageError, match=r"is not the graph that its name says|falls into|edge"):
        rewire_run(folder, {"kind": "ring"}, dry_run=False, timeout=1)
    path.unlink()
    with pytest.raises(UsageError, match="cannot read the run's graph"):
        rewire_run(folder, {"kind": "ring"}, dry_run=False, timeout=1)


@pytest.mark.parametrize(("words", "code"), [(["--dry-run"], 0), ([], 1)])
def test_exit_codes_say_whether_all_followed(
    words: list[str], code: int, folder: Path, live: list[TopologySpec], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["topology", "rewire", str(folder), "--epoch", "9", "--json", *words])
    assert end.value.code == code
    told = json.loads(capsys.readouterr().out)
    assert told["silent"] == ([] if words else [NAMES[-1]])
    assert len(live) == (not words)


def test_the_graph_of_a_live_run_is_inspected(
    folder: Path, live: list[TopologySpec], capsys: pytest.CaptureFixture[str]
) -> None:
    found = live_topology(folder)
    assert (found.kind, found.size, found.names) == ("hash-rings, degree 4, epoch 2", 20, NAMES[4:])
    rewire_run(folder, {"kind": "torus"}, dry_run=False, timeout=1)
    assert live_topology(folder).kind.startswith("static ")
    for words, code in (([], 0), (["-n", "3"], 2)):
        with pytest.raises(SystemExit) as end:
            cli.main(["topology", "inspect", str(folder), "--trials", "5", *words])
        assert end.value.code == code
    told = capsys.readouterr()
    assert "20 workers" in told.out and "is a run: it says itself how many workers" in told.err
