from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagrad_bus.workers.launch import mirror
from dagrad_bus.workers.launch.mirror import CHUNK, BadChunk, Sink, Source, whole_characters, whole_lines
from dagrad_bus.workers.launch.orders import Chunk, encode, parse_report

NAMES = ("n1.0", "n1.1")
LOG = "logs/n1.0.log"


class Pair:
    """Both sides, in two folders; every chunk goes through its line."""

    def __init__(self, root: Path) -> None:
        self.here, self.there = root / "here", root / "there"
        for folder in (self.here, self.there):
            for name in ("logs", "workers"):
                (folder / name).mkdir(parents=True)
        self.sink = Sink(self.there, NAMES)
        self.source = self.begin()
        self.files: list[str] = []

    def begin(self) -> Source:
        """Another agent process in the same folder."""
        source = Source(self.here, where="n1", notices=self.here / "notices.jsonl", held=self.sink.sizes())
        source.add(NAMES)
        return source

    def append(self, data: bytes, file: str = LOG) -> None:
        with (self.here / file).open("ab") as output:
            output.write(data)

    def carry(self, most: int = 1_000_000, *, final: bool = False) -> list[Chunk]:
        chunks: list[Chunk] = []
        while len(chunks) < most and (chunk := self.source.next_chunk(final=final)) is not None:
            line = encode(chunk)
            assert len(line) < 1 << 20
            chunks.append(chunk)
            assert self.sink.take(parse_report(line))  # type: ignore[arg-type]  # a chunk again
        return chunks

    def copy(self, file: str = LOG) -> bytes:
        return (self.there / file).read_bytes()


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def test_what_is_appended_is_carried_in_turn(pair: Pair) -> None:
    pair.append(b"x" * (CHUNK - 1) + b"\n" + b"y\n" * CHUNK)
    pair.append(b"{}\n", "workers/n1.1.jsonl")
    chunks = pair.carry()
    assert [chunk.file for chunk in chunks[:3]] == [LOG, "workers/n1.1.jsonl", LOG]
    assert pair.copy() == (pair.here / LOG).read_bytes()
    pair.append(b"more")
    assert [chunk.data for chunk in pair.carry()] == ["more"]
    assert pair.carry() == []


def test_the_sequence_of_bytes_is_that_of_the_file_wherever_it_was_cut(tmp_path: Path) -> None:
    parts = st.lists(
        st.one_of(st.binary(max_size=30), st.text(max_size=20).map(lambda text: text.encode("utf-8", "replace"))),
        max_size=8,
    )
    count = 0

    @settings(max_examples=50)
    @given(parts, st.lists(st.integers(0, 3), max_size=8))
    def run(parts: list[bytes], restarts: list[int]) -> None:
        nonlocal count
        count += 1
        pair = Pair(tmp_path / str(count))
        for part, restart in zip(parts, restarts + [3] * len(parts), strict=False):
            pair.append(part)
            pair.carry(restart)
            if restart == 1:  # another agent process, or a launcher that lost its last bytes
                pair.source = pair.begin()
                pair.source.resume({file: size - min(size, 2) for file, size in pair.sink.sizes().items()})
        pair.carry(final=True)
        assert (pair.copy() if parts and any(parts) else b"") == b"".join(parts)

    run()


@given(st.text(min_size=1, max_size=30), st.integers(1, 200))
def test_a_character_is_never_split(text: str, at: int) -> None:
    data = text.encode("utf-8", "replace")
    head = whole_characters(data[:at])
    head.decode()  # raises if it was
    assert len(data[:at]) - len(head) < 4


@given(st.binary(max_size=20))
def test_at_most_three_bytes_wait_for_the_rest_of_a_character(data: bytes) -> None:
    head = whole_characters(data)
    assert data.startswith(head) and len(data) - len(head) <= 3


def test_full_chunks_end_with_a_line_where_there_is_one(pair: Pair) -> None:
    pair.append(b"a" * 40_000 + b"\n" + b"b" * 40_000 + b"\n")
    assert [len(chunk.data) for chunk in pair.carry()] == [40_001, 40_001]
    assert whole_lines(b"abc\xc3") == b"abc"


def test_a_character_that_is_cut_off_waits_until_the_end(pair: Pair) -> None:
    pair.append("é".encode()[:1])
    assert pair.carry() == []
    assert [chunk.data for chunk in pair.carry(final=True)] == ["\udcc3"]
    assert pair.copy() == b"\xc3"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make limits small, so that skips come with little data."""
    monkeypatch.setattr(mirror, "MOST_BEHIND", 400)
    monkeypatch.setattr(mirror, "KEPT", 100)


@pytest.mark.usefixtures("small")
def test_a_log_far_behind_is_skipped_to_its_last_part(pair: Pair) -> None:
    lines = [f"line {n}\n".encode() for n in range(1000)]
    pair.append(b"".join(lines[:10]))
    pair.carry()
    pair.append(b"".join(lines[10:]))
    pair.append(b"".join(lines), "workers/n1.0.jsonl")
    pair.carry()
    head, notice, tail = pair.copy().partition(b"[dagrad: ")
    text, _, rest = (notice + tail).partition(b"\n")
    assert head == b"".join(lines[:10])
    assert rest.startswith(b"line ") and b"".join(lines).endswith(rest) and 90 <= len(rest) <= 100
    missing = len(b"".join(lines)) - len(head) - len(rest)
    where = f"n1:{pair.here / LOG}"
    assert text.decode() == f"[dagrad: {missing} bytes of output skipped here; all of it is in {where}]"
    assert pair.copy("workers/n1.0.jsonl") == b"".join(lines)  # journals are never skipped
    assert pair.source.incomplete() == [LOG]


@pytest.mark.usefixtures("small")
def test_a_notice_within_a_line_begins_a_new_one(pair: Pair) -> None:
    pair.append(b"progress 10 %")
    pair.carry()
    pair.append(b"." * 1000)
    pair.carry()
    assert b"10 %\n[dagrad: 900 bytes" in pair.copy()
    assert pair.copy().endswith(b"]\n" + b"." * 100)


@pytest.mark.usefixtures("small")
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_same_bytes_come_again_wherever_a_launcher_goes_on(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:  # fmt: skip
    pair = Pair(tmp_path_factory.mktemp("pair"))
    for burst in data.draw(st.lists(st.integers(0, 900), min_size=2, max_size=4)):
        pair.append(b"0123456789\n" * (burst // 11) + b"x" * (burst % 11))
        pair.carry()
    whole = pair.copy() if (pair.there / LOG).exists() else b""
    size = data.draw(st.integers(0, len(whole)))
    os.truncate(pair.there / LOG, size) if whole else None
    if data.draw(st.booleans()):
        pair.source = pair.begin()
    pair.source.resume(pair.sink.sizes())
    pair.append(b"the end\n")
    pair.carry()
    after = pair.copy()
    skips = b"[dagrad: "
    if after.count(skips) == whole.count(skips):  # what is behind may be skipped now
        assert after == whole + b"the end\n"
    assert after[:size] == whole[:size] and after.endswith(b"the end\n")


def test_a_file_that_shrinks_or_goes_is_no_error(pair: Pair) -> None:
    pair.append(b"some text")
    pair.carry()
    (pair.here / LOG).write_bytes(b"")
    assert pair.carry() == []
    (pair.here / LOG).unlink()
    assert pair.carry() == []


@pytest.mark.parametrize(
    "file",
    ["logs/n2.0.log", "logs/../key", "/etc/passwd", "logs/n1.0.txt", "key", "workers/n1.0.log", "", "logs/n1.0.log/"],
)
def test_no_other_file_is_ever_written(pair: Pair, file: str) -> None:
    with pytest.raises(BadChunk, match="no file of this host's workers"):
        pair.sink.write(Chunk(file=file, at=0, data="x"))
    assert not pair.sink.take(Chunk(file=file, at=0, data="x"))
    assert pair.sink.refused == 1


@pytest.mark.parametrize("name", ["..", "a/b", "", ".hidden", "a\0", "-x", "x" * 250])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadChunk):
        Sink(tmp_path, [name])


@pytest.mark.parametrize("at", [-1, 4, 1 << 62])
def test_an_offset_that_would_leave_a_hole_is_refused(pair: Pair, at: int) -> None:
    pair.sink.write(Chunk(file=LOG, at=0, data="abc"))
    with pytest.raises(BadChunk, match=f"offset {at} of 3 bytes"):
        pair.sink.write(Chunk(file=LOG, at=at, data="x"))
    assert pair.copy() == b"abc"


def test_text_that_stands_for_no_bytes_is_refused(pair: Pair) -> None:
    assert not pair.sink.take(Chunk(file=LOG, at=0, data="\ud800"))


def test_a_link_is_not_followed(pair: Pair, tmp_path: Path) -> None:
    (pair.there / LOG).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        pair.sink.write(Chunk(file=LOG, at=0, data="x"))
    assert not (tmp_path / "elsewhere").exists()


def wipe(folder: Path) -> None:
    """The host was started anew, and its temporary files are gone."""
    for file in (*folder.glob("*/*"), folder / "notices.jsonl"):
        file.unlink(missing_ok=True)


def test_a_new_file_comes_behind_the_copy_of_one_that_is_gone(pair: Pair) -> None:
    journal = "workers/n1.0.jsonl"
    for life in range(3):
        pair.append(f"log {life}\n".encode())
        pair.append(f'{{"life": {life}}}\n{{"torn'.encode(), journal)
        pair.carry(final=True)
        wipe(pair.here)
        pair.source = pair.begin()
    assert pair.copy() == b"log 0\n\nlog 1\n\nlog 2\n"
    assert [line for line in pair.copy(journal).splitlines() if line.endswith(b"}")] == [
        b'{"life": 0}', b'{"life": 1}', b'{"life": 2}',
    ]  # fmt: skip


def test_an_agent_that_finds_the_new_file_again_goes_on_behind_the_old_one(pair: Pair) -> None:
    pair.append(b"before\n")
    pair.carry()
    wipe(pair.here)
    pair.source = pair.begin()
    pair.append(b"one\n")
    pair.carry()
    pair.source = pair.begin()  # its agent was killed, its folder is there
    pair.append(b"two\n")
    pair.carry()
    pair.source.resume({LOG: 9})  # a launcher comes back that lacks the last bytes, or all of them
    pair.carry()
    pair.source.resume({})
    pair.carry()
    assert pair.copy() == b"before\n\none\ntwo\n"
    assert pair.source.incomplete() == []


def test_a_large_new_file_is_skipped_like_any_other(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "MOST_BEHIND", 1000)
    monkeypatch.setattr(mirror, "KEPT", 100)
    pair.append(b"before\n")
    pair.carry()
    wipe(pair.here)
    pair.source = pair.begin()
    pair.append(b"line\n" * 400)
    pair.carry()
    copy = pair.copy()
    assert copy.startswith(b"before\n\n[dagrad: ")
    assert copy.endswith(b"line\n" * 19)
    assert pair.source.incomplete() == [LOG]
