"""Workers' files, carried from the host where they are written into the launcher's run folder, byte by byte.

The file on the host is the buffer: a worker never waits, nothing is lost while the launcher is away, and the size of
the launcher's copy says where to go on. Only where output runs ahead of the connection by megabytes is some of a log
left out of the copy; a line says so in its place. Journals are never cut.

The launcher's copy is thus the file with some ranges replaced by notices, behind what it had of an earlier file of that
name, whose folder is gone (the host was started anew). Once sent, a notice stays where it is: it is
kept in a file, so that whoever sends again, after a break or in another process, sends the same bytes at the same
places.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from dagrad_bus.errors import RemoteError
from dagrad_bus.workers.launch.orders import Chunk

CHUNK = 64 << 10
"""Bytes of one chunk, at most. Escaped in JSON it may take six times as many."""
MOST_BEHIND = 4 << 20
"""Unsent bytes of one log beyond which it is skipped."""
KEPT = 1 << 20
"""Unsent bytes that remain then."""
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class BadChunk(RemoteError):
    """A chunk for a file that is none of the host's, or for a place that would leave a hole."""

    code = "chunk"


def is_safe(name: str) -> bool:
    """Whether a worker of that name cannot make a path lead elsewhere."""
    return len(name.encode(errors="surrogateescape")) <= 255 - len(".jsonl") and bool(_SAFE.fullmatch(name))


def files_of(name: str) -> tuple[str, str, str]:
    """Return the files of worker ``name`` that are carried, relative to a run folder."""
    return f"logs/{name}.log", f"logs/{name}.err", f"workers/{name}.jsonl"


@dataclass(frozen=True, slots=True)
class Skip:
    """A range of the file for which the copy has a notice."""

    file: str
    at: int
    """Where the notice begins in the copy."""
    notice: str
    resume: int
    """Where the copy goes on in the file; 0: nothing was skipped, what stands before is of an earlier file."""

    @property
    def data(self) -> bytes:
        """The notice as bytes."""
        return self.notice.encode("utf-8", "surrogateescape")

    @property
    def end(self) -> int:
        """Where the notice ends in the copy."""
        return self.at + len(self.data)


class _File:
    """One file and how much of its copy has been sent."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self.at = 0
        """Size of the copy."""
        self.skips: list[Skip] = []
        """In their order."""

    @property
    def least(self) -> int:
        """Where it begins in the copy."""
        return self.skips[0].at if self.skips and not self.skips[0].resume else 0

    @property
    def is_log(self) -> bool:
        return self.name.startswith("logs/")

    def place(self) -> tuple[Skip | None, int, int | None]:
        """Return the notice in which the copy ends, or its place in the file and how many bytes follow to the next."""
        shift = 0
        for skip in self.skips:
            if self.at < skip.at:
                return None, self.at + shift, skip.at - self.at
            if self.at < skip.end:
                return skip, 0, None
            shift = skip.resume - skip.end
        return None, self.at + shift, None

    def size(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def read(self, at: int, most: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(at)
                return file.read(most)
        except OSError:
            return b""


class Source:
    """The agent's side: what the launcher's copies lack, in chunks, each file in its turn.

    Args:
        folder: run folder on this host.
        where: how to name this host in a notice.
        notices: file that keeps what was skipped; it need not exist.
        held: sizes of the launcher's copies by file. Where there is a copy and no file, the file begins behind it.
    """

    def __init__(self, folder: Path, *, where: str, notices: Path, held: Mapping[str, int] | None = None) -> None:
        self._folder = folder
        self._where = where
        self._notices = notices
        self._held = held or {}
        self._files: dict[str, _File] = {}
        self._turn: list[str] = []
        self._old = _read_skips(notices)

    def add(self, names: Iterable[str]) -> None:
        """Follow the files of more workers."""
        for name in names:
            for file in files_of(name):
                if file not in self._files:
                    entry = self._files[file] = _File(self._folder / file, file)
                    entry.skips = [skip for skip in self._old if skip.file == file]
                    if not entry.skips and not entry.size() and (held := self._held.get(file, 0)) > 0:
                        self._keep(entry, Skip(file, held, "\n", 0))  # the earlier one may end within a line
                    entry.at = entry.least
                    self._turn.append(file)

    def resume(self, sizes: Mapping[str, int]) -> None:
        """Go on where the launcher's copies end: ``sizes`` in bytes by file; one that it lacks starts anew."""
        for name, file in self._files.items():
            file.at = max(file.least, sizes.get(name, 0))

    def incomplete(self) -> list[str]:
        """Return the logs of which the launcher's copy lacks something."""
        return [name for name, file in self._files.items() if any(skip.resume for skip in file.skips)]

    def next_chunk(self, *, final: bool = False) -> Chunk | None:
        """Return what is to be sent next; None while there is nothing.

        Args:
            final: nothing more is being written: a character that is cut off at the end of a file is sent as it is.
        """
        for turn, name in enumerate(self._turn):
            file = self._files[name]
            at = file.at
            data = self._take(file, final=final)
            if data:
                self._turn = [*self._turn[turn + 1 :], *self._turn[: turn + 1]]
                file.at += len(data)
                return Chunk(file=name, at=at, data=data.decode("utf-8", "surrogateescape"))
        return None

    def _take(self, file: _File, *, final: bool) -> bytes:
        skip, start, most = file.place()
        behind = file.size() - start
        if skip is None and most is None and file.is_log and behind > MOST_BEHIND:
            skip = self._skip(file, start)
        if skip is not None:
            return skip.data[file.at - skip.at :]
        if behind <= 0:
            return b""
        wanted = CHUNK if most is None else min(CHUNK, most)
        data = file.read(start, wanted)
        if most is not None and len(data) == most:
            return data  # the notice follows: there is no more to this character
        return whole_lines(data) if len(data) == CHUNK else data if final else whole_characters(data)

    def _skip(self, file: _File, start: int) -> Skip:
        """Leave out all but the last part of a log, to the beginning of a line where there is one."""
        resume = file.size() - KEPT
        head = file.read(resume, CHUNK)
        line = head.find(b"\n")
        resume += line + 1 if line >= 0 else next((n for n, byte in enumerate(head[:4]) if byte & 0xC0 != 0x80), 0)
        where = f"{self._where}:{file.path}"
        text = f"[dagrad: {resume - start} bytes of output skipped here; all of it is in {where}]\n"
        begins_line = start == 0 or file.read(start - 1, 1) == b"\n"
        skip = Skip(file.name, file.at, text if begins_line else "\n" + text, resume)
        self._keep(file, skip)
        return skip

    def _keep(self, file: _File, skip: Skip) -> None:
        file.skips.append(skip)
        with suppress(OSError), self._notices.open("a", encoding="utf-8") as kept:  # full: only a new agent needs it
            kept.write(json.dumps(asdict(skip)) + "\n")


class Sink:
    """The launcher's side: writes chunks where they belong, and nowhere else.

    Args:
        folder: the launcher's run folder.
        names: the workers of one host: only their files are written.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder = folder
        self._files: set[str] = set()
        self.refused = 0
        """Chunks that :meth:`take` did not write."""
        self.add(names)

    def add(self, names: Iterable[str]) -> None:
        """Take files of more workers.

        Raises:
            BadChunk: a name that could lead out of the folder.
        """
        for name in names:
            if not is_safe(name):
                raise BadChunk(f"{name!r} cannot be the name of a file")
            self._files.update(files_of(name))

    def sizes(self) -> dict[str, int]:
        """Return how much there is of each file, in bytes."""
        found: dict[str, int] = {}
        for file in sorted(self._files):
            with suppress(OSError):
                found[file] = (self._folder / file).lstat().st_size
        return found

    def write(self, chunk: Chunk) -> None:
        """Write a chunk at its offset; what stands there already is the same.

        Raises:
            BadChunk: no file of this host's workers, or an offset beyond what there is.
            OSError: the file cannot be written.
        """
        if chunk.file not in self._files:
            raise BadChunk(f"{chunk.file[:80]!r} is no file of this host's workers")
        try:
            data = chunk.data.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # a surrogate that stands for no byte
            raise BadChunk(f"{chunk.file}: text that is no bytes") from None
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._folder / chunk.file, flags, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            if not 0 <= chunk.at <= size:
                raise BadChunk(f"{chunk.file}: offset {chunk.at} of {size} bytes")
            done = 0
            while done < len(data):
                done += os.pwrite(descriptor, data[done:], chunk.at + done)
        finally:
            os.close(descriptor)

    def take(self, chunk: Chunk) -> bool:
        """Write a chunk; False (and counted) if it was refused.

        Raises:
            OSError: the file cannot be written.
        """
        try:
            self.write(chunk)
        except BadChunk:
            self.refused += 1
            return False
        return True


def whole_characters(data: bytes) -> bytes:
    """Return ``data`` without the beginning of a UTF-8 character at its end whose rest may follow."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        length = 4 if byte & 0xF8 == 0xF0 else 3 if byte & 0xF0 == 0xE0 else 2 if byte & 0xE0 == 0xC0 else 1
        return data[:-back] if length > back else data
    return data


def whole_lines(data: bytes) -> bytes:
    """Return ``data`` up to its last newline; where there is none, its whole characters."""
    return data[: data.rfind(b"\n") + 1] or whole_characters(data)


def _read_skips(path: Path) -> list[Skip]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found: list[Skip] = []
    for line in lines:
        with suppress(ValueError, TypeError):
            found.append(Skip(**json.loads(line)))
    return found
