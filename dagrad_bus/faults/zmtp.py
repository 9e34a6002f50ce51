"""Where messages end in a ZMTP 3 byte stream, and who speaks in it (ZeroMQ RFC 37, NULL mechanism).

A forwarder that wants to cut a connection within a message, to repeat one or to slip one in between two others has to
know where they end. Nothing is checked: the stream goes on as it came.
"""

from __future__ import annotations

from dataclasses import dataclass

GREETING = 64
"""Bytes before the first frame: signature, version, mechanism, filler."""
MORE, LONG, COMMAND = 0x01, 0x02, 0x04
"""Bits of a frame's first byte."""
LONGEST_COMMAND = 4096
"""Commands beyond this are not kept for reading."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive bytes of a stream that belong to one message, one command or the greeting."""

    data: bytes
    command: bool
    """Part of the greeting or of a command."""
    ends: bool
    """The last byte of it is in here."""


class Framing:
    """Follows one direction of one connection."""

    def __init__(self) -> None:
        self.identity = b""
        """Routing id out of the READY command; empty until it came, or where the socket has none (PUB, SUB)."""
        self._left = GREETING
        """Bytes until the end of the present greeting or frame body; 0: a frame's head is next."""
        self._flags = COMMAND
        self._head = b""
        self._command = bytearray()

    def feed(self, data: bytes) -> list[Piece]:
        """Cut ``data`` where messages end; the pieces joined are ``data`` again."""
        pieces: list[Piece] = []
        at = 0
        while at < len(data):
            start, at = at, self._advance(data, at)
            ended = not self._left and not self._head
            ends = ended and not (self._flags & MORE and not self._flags & COMMAND)
            pieces.append(Piece(data[start:at], bool(self._flags & COMMAND), ends))
        return _joined(pieces)

    def _advance(self, data: bytes, at: int) -> int:
        """Take a frame's head, or as much of a body as there is; return where the next one begins."""
        if not self._left:
            return self._take_head(data, at)
        taken = min(self._left, len(data) - at)
        self._left -= taken
        if self._flags & COMMAND and len(self._command) < LONGEST_COMMAND:
            self._command += data[at : at + taken]
        if not self._left:
            self._end_of_body()
        return at + taken

    def _take_head(self, data: bytes, at: int) -> int:
        """Collect flags and length, which may come in parts."""
        wanted = 9 if (self._head or data[at : at + 1])[0] & LONG else 2
        taken = data[at : at + wanted - len(self._head)]
        self._head += taken
        self._flags = self._head[0]  # known from the first byte on, also where the rest comes later
        if len(self._head) == wanted:
            self._left = int.from_bytes(self._head[1:], "big")
            self._head = b""
        return at + len(taken)

    def _end_of_body(self) -> None:
        command = bytes(self._command)
        self._command.clear()
        if command[:6] == b"\x05READY":
            self.identity = properties(command[6:]).get("Identity", b"")


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Join neighbours that belong to the same message."""
    joined: list[Piece] = []
    for piece in pieces:
        if joined and not joined[-1].ends and joined[-1].command == piece.command:
            last = joined.pop()
            piece = Piece(last.data + piece.data, piece.command, piece.ends)
        joined.append(piece)
    return joined


def properties(data: bytes) -> dict[str, bytes]:
    """Return the metadata of a READY command; what does not parse ends it."""
    found: dict[str, bytes] = {}
    at = 0
    while at < len(data):
        name_end = at + 1 + data[at]
        value_at = name_end + 4
        value_end = value_at + int.from_bytes(data[name_end:value_at], "big")
        if value_end > len(data):
            break
        found[data[at + 1 : name_end].decode("ascii", "replace")] = data[value_at:value_end]
        at = value_end
    return found


def node_of(identity: bytes) -> bytes:
    """Return the node id within a worker's routing id (0x01, 16 bytes of node id, 8 of chance), or nothing."""
    return identity[1:17] if len(identity) == 25 and identity[0] == 1 else b""
