from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.workers.launch.journal import Record, Tail, read_record

TEXT = st.binary(max_size=60).map(lambda data: data.replace(b"\r", b"\n"))


@settings(deadline=None)  # a busy machine is no fault
@given(pieces=st.lists(TEXT, max_size=8))
def test_lines_are_the_same_however_the_file_grows(pieces: list[bytes]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "log")
        tail, seen = Tail(path), list[bytes]()
        for piece in pieces:
            with path.open("ab") as file:
                file.write(piece)
            seen += tail.read_lines()
        seen += tail.read_lines(final=True)
    whole = b"".join(pieces)
    assert b"\n".join(seen) == whole.removesuffix(b"\n")


def test_a_line_is_shown_once_its_end_is_there(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = Tail(path)
    assert list(tail.read_lines()) == []
    path.write_bytes(b"one\ntw")
    assert list(tail.read_lines()) == [b"one"]
    path.write_bytes(b"one\ntwo\n")
    assert list(tail.read_lines()) == [b"two"]


def test_a_line_without_end_is_cut_and_nothing_lost(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 25)
    tail = Tail(path, longest=10)
    assert [len(line) for line in tail.read_lines()] == [10, 10]
    assert list(tail.read_lines(final=True)) == [b"x" * 5]


def lines(*entries: dict[str, object]) -> bytes:
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)


def test_a_record_gathers_what_the_worker_wrote(tmp_path: Path) -> None:
    path = tmp_path / "local.0.jsonl"
    path.write_bytes(
        lines(
            {"event": "start", "time": 1.0, "parameters": 10},
            {"event": "progress", "time": 2.0, "step": 5, "rate": 2.5, "counters": {"bytes_sent": 7}, "gauges": {}},
            {"event": "log", "time": 2.0, "step": 5, "loss": 0.5, "note": "text"},
            {"event": "log", "time": 3.0, "step": 6, "accuracy": 1},
            {"event": "sample", "step": 5, "values": ""},
            {"event": "end", "time": 4.0, "step": 9, "counters": {"bytes_sent": 9}, "gauges": {"peers": 3}},
            {"event": "from the future"},
        )
    )
    record = read_record(path, "local.0")
    assert (record.step, record.counter("bytes_sent"), record.counter("never"), record.gauge("peers")) == (9, 9, 0, 3.0)
    assert record.latest == {"loss": 0.5, "accuracy": 1.0}
    assert record.last["rate"] == 2.5
    assert (len(record.progress), len(record.logs), len(record.samples), record.ended) == (2, 2, 1, True)
    assert record.damaged == 0


def test_damaged_lines_are_counted_and_skipped(tmp_path: Path) -> None:
    path = tmp_path / "local.0.jsonl"
    path.write_bytes(b'\n{"event":\n[1]\n{"no": "event"}\n\xff\xfe\n' + lines({"event": "log", "step": 1, "loss": 1.0}))
    record = read_record(path, "local.0")
    assert (record.damaged, record.latest) == (4, {"loss": 1.0})


@pytest.mark.parametrize("line", [
    b"[" * 100_000, b'{"event": "start", "time": "z"}', b'{"event": "progress", "step": "x"}',
    b'{"event": "progress", "step": 1e999}', b'{"event": "end", "step": null}', b'{"event": "end", "counters": 3}',
    b'{"event": "end", "counters": {"bytes_sent": []}}', b'{"event": "end", "gauges": {"peers": "many"}}',
    b'{"event": "end", "histograms": {"age_steps": 7}}', b'{"event": "end", "histograms": {"age_steps": ["x"]}}',
    b'{"event": "end", "rate": 1' + b"0" * 400 + b"}",
])  # fmt: skip
def test_a_line_with_something_else_than_numbers_ends_nobody(line: bytes) -> None:
    record = Record("n1.0", last={"step": 4}, latest={"loss": 1.0})
    record.add(line)
    assert (record.damaged, record.step, record.latest) == (1, 4, {"loss": 1.0})
    assert (record.counter("bytes_sent"), record.gauge("peers"), record.ages, record.is_back(0.0)) == (
        0,
        None,
        [],
        False,
    )


def test_a_number_beyond_floats_is_left_out_of_what_the_user_logs() -> None:
    record = Record("n1.0")
    record.add(b'{"event": "log", "step": 1, "loss": NaN, "huge": 1' + b"0" * 400 + b', "acc": 1}')
    assert list(record.latest) == ["loss", "acc"]


def test_a_worker_without_journal_has_an_empty_record(tmp_path: Path) -> None:
    record = read_record(tmp_path / "none", "local.3")
    assert (record.step, record.ages, record.gauge("peers"), record.start) == (0, [], None, {})


def test_a_live_record_holds_only_the_newest() -> None:
    record = Record("local.0")
    for step in range(50):
        record.add(json.dumps({"event": "log", "step": step, "loss": step}).encode(), keep=False)
    assert (record.logs, record.latest) == ([], {"loss": 49.0})


def test_a_worker_that_is_back_has_not_ended() -> None:
    record = Record("a")
    lines = [
        b'{"event": "start", "time": 1.0}',
        b'{"event": "end", "time": 5.0, "step": 3}',
    ]
    for line in lines:
        record.add(line)
    assert record.ended
    assert not record.is_back(6.0)
    record.add(b'{"event": "start", "time": 9.0}')
    assert not record.ended
    assert record.is_back(6.0)
