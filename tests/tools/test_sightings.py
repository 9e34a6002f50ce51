"""What is said of each member, from its heartbeat, the others' belief and its journal."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from dagrad_bus.bus.survey import Picture, Sighting
from dagrad_bus.ids import Step, derive_node_id
from dagrad_bus.tools.sightings import TAIL, describe_spec, make_status, natural, read_latest, state_of, step_now
from dagrad_bus.topology.live import TopologySpec
from dagrad_bus.wire import Heartbeat, MemberState, Record
from dagrad_bus.workers.launch.folder import RunFolder, create
from dagrad_bus.workers.launch.journal import Record as Journal

NOTHING = Journal("x")
CLOSED = Journal("x", last={"reason": "closed"}, ended=True)
CRASHED = Journal("x", last={"reason": "ValueError"}, ended=True)


def sighting(
    name: str = "local.0", *, state: MemberState = MemberState.ALIVE, beat: dict[str, Any] | None = None,
    asked: bool = True, age: float = 0.5, rtt: float | None = 0.001,
) -> Sighting:  # fmt: skip
    node = derive_node_id("r", name)
    record = Record(node, 1, 0, state, b"", "127.0.0.1", 1, 2, name)
    fields: dict[str, Any] = {"state": 1, "step": Step(100), "rate": 10.0, "digest": 7} | (beat or {})
    heard = Heartbeat(node, 1, 0, **fields) if beat is not None else None
    return Sighting(record, asked, heard, age if heard else math.inf, rtt)


@pytest.mark.parametrize(
    ("one", "journal", "state"),
    [
        (sighting(beat={}), NOTHING, "alive"),
        (sighting(beat={}, state=MemberState.SUSPECT), NOTHING, "suspect"),
        (sighting(beat={"state": 2}), NOTHING, "wedged"),
        (sighting(beat={"state": 9}), NOTHING, "syncing"),
        (sighting(beat={"state": 5}), NOTHING, "leaving"),
        (sighting(), NOTHING, "alive"),  # no heartbeat yet, but an answer
        (sighting(rtt=None), NOTHING, "silent"),
        (sighting(rtt=None), CLOSED, "left"),
        (sighting(rtt=None), CRASHED, "silent"),
        (sighting(rtt=None, state=MemberState.SUSPECT), NOTHING, "suspect"),
        (sighting(rtt=None, asked=False), NOTHING, "alive"),
        (sighting(rtt=None, state=MemberState.LEFT), NOTHING, "left"),
        (sighting(rtt=None, state=MemberState.DEAD), NOTHING, "dead"),
        (sighting(rtt=None, state=MemberState.DEAD), CLOSED, "left"),
        (sighting(rtt=None, state=MemberState.DEAD), CRASHED, "dead"),
    ],
)
def test_a_state_is_one_word(one: Sighting, journal: Journal, state: str) -> None:
    assert state_of(one, journal) == state


def test_a_step_goes_on_until_the_worker_stands_still() -> None:
    assert step_now(sighting(beat={}, age=0.5)) == 105
    assert step_now(sighting(beat={"progress_ms": 5000})) == 100
    assert step_now(sighting(beat={}, age=60.0)) == 100
    assert step_now(sighting()) is None


def picture(*members: Sighting) -> Picture:
    return Picture("r", "local.0", TopologySpec(), members)


def test_a_run_that_is_well() -> None:
    names = [derive_node_id("r", f"local.{slot}")[:8] for slot in (10, 9)]
    found = make_status(
        picture(
            sighting("local.9", beat={"neighbours": tuple(names[:1])}),
            sighting("local.10", beat={"neighbours": (names[1], b"stranger"), "step": Step(110)}),
        ),
        {},
        ["local.9", "local.10", "local.11"],
    )
    assert found.is_well
    assert [(one.name, one.state) for one in found.members] == [
        ("local.9", "alive"), ("local.10", "alive"), ("local.11", "expected"),
    ]  # fmt: skip
    assert found.steps == (105, 115)
    assert [one.behind for one in found.members] == [5, -5, None]
    assert found.members[1].neighbours == (b"stranger".hex(), "local.9")
    told = json.loads(json.dumps(found.to_json()))
    assert told["schema"] == "dagrad.status/1" and told["well"] and told["present"] == 2
    assert list(told["members"][0]) == list(told["members"][2]), "keys do not come and go"


def test_who_differs_from_most_and_who_failed() -> None:
    members = [sighting(f"local.{slot}", beat={"digest": 1 if slot == 2 else 7}) for slot in range(4)]
    found = make_status(picture(*members, sighting("local.4", rtt=None, state=MemberState.DEAD)), {})
    assert [one.name for one in found.dissenters] == ["local.2"]
    assert [one.name for one in found.failed] == ["local.4"]
    assert not found.is_well
    assert make_status(picture(*members[:2]), {}).is_well


@pytest.fixture
def folder(tmp_path: Any) -> RunFolder:
    return create(tmp_path / "run", run="r", names=["local.0"], facts={})


def test_of_a_journal_the_ends_are_read(folder: RunFolder) -> None:
    start = {"event": "start", "time": 1.0, "parameters": 5}
    middle = [{"event": "log", "step": 1, "loss": 9.0, "text": "x" * 1000}] * (2 * TAIL // 1000)
    last = [{"event": "log", "step": 8, "loss": 0.5}, {"event": "progress", "step": 8, "counters": {"bytes_sent": 16}}]
    text = "".join(json.dumps(line) + "\n" for line in (start, *middle, *last))
    folder.journal("local.0").write_text(text + '{"event": "progress", "step": 9')
    found = read_latest(folder, ["local.0", "local.7"])
    record = found["local.0"]
    assert record.start["parameters"] == 5 and record.latest == {"loss": 0.5}
    assert (record.step, record.counter("bytes_sent"), record.damaged) == (8, 16, 0)
    assert len(record.logs) < len(middle)
    assert found["local.7"].last == {}
    row = make_status(picture(sighting(beat={})), found).members[0]
    assert (row.loss, row.bytes_per_step) == (0.5, 2.0)


def test_a_journal_of_a_worker_that_is_back(folder: RunFolder) -> None:
    lines = [{"event": "start", "time": 1.0}, {"event": "end", "reason": "closed"}, {"event": "start", "time": 2.0}]
    folder.journal("local.0").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert not read_latest(folder, ["local.0"])["local.0"].ended


def test_graphs_and_names_as_people_say_them() -> None:
    assert describe_spec(TopologySpec(3, degree=6, epoch=2)) == "hash-rings, degree 6, epoch 2 (version 3)"
    assert describe_spec(TopologySpec(kind="ring")) == "ring (version 0)"
    assert describe_spec(replace(TopologySpec(), kind="static", graph=b"graph--8")).startswith("static, 67726170")
    assert sorted(["b.2", "a.10", "a.9", "a"], key=natural) == ["a", "a.9", "a.10", "b.2"]
