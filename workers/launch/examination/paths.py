"""Whether one host reaches another: listeners on ports of the range, and visits to them. Standard library only.

A visit says the listener's token and must hear it back, so that a stranger behind the port is not taken for the host.
Then one-byte commands: ``p`` is answered at once (round trip); ``b``, a length and so many bytes are answered once all
have come (do full-sized packets get through?); after ``s`` all until the end of the stream is counted (throughput).
"""

from __future__ import annotations

import errno
import random
import socket
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import repeat
from typing import Any

TOKEN_BYTES = 16
BULK = 1 << 17
"""Bytes of the one large message: over 80 packets of 1500 bytes."""
PINGS = 5
SECONDS = 1.0
"""How long throughput is measured."""
_AT_ONCE = 16
_TRIES = 64
"""Ports tried before a range counts as full."""
_IP_MTU, _IPV6_MTU = 14, 24
_BUFFER = 1 << 18


class Listeners:
    """Listening sockets on a few ports of a range, all interfaces, and the threads that answer.

    Args:
        token: 16 bytes that visitors must say, and hear back.
    """

    def __init__(self, token: bytes) -> None:
        self._token = token
        self.ports: list[int] = []
        self.tried = 0
        """Ports that it took to find those."""
        self.error = ""
        """Why the last port was not to be had."""
        self._open: list[tuple[socket.socket, threading.Thread]] = []

    def open(self, ports: Sequence[int], count: int, *, v6: bool = False) -> None:
        """Listen on ``count`` of ``ports``, taken at random."""
        for port in random.sample(ports, min(len(ports), _TRIES)):
            if len(self.ports) == count:
                return
            self.tried += 1
            sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_STREAM)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(("::" if v6 else "0.0.0.0", port))  # for the seconds of an examination
                sock.listen(64)
            except OSError as error:
                sock.close()
                self.error = error.strerror or str(error)
                continue
            self.ports.append(port)
            thread = threading.Thread(target=self._accept, args=(sock,), daemon=True)
            self._open.append((sock, thread))
            thread.start()

    def close(self) -> None:
        """Listen no more; guests that are served are served on."""
        while self._open:
            sock, thread = self._open.pop()
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # wakes the thread, which closing would not
            thread.join(1.0)
            sock.close()

    def _accept(self, sock: socket.socket) -> None:
        while True:
            try:
                guest, _ = sock.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(guest,), daemon=True).start()

    def _serve(self, guest: socket.socket) -> None:
        with guest, suppress(OSError, EOFError):
            guest.settimeout(30)
            guest.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if _take(guest, TOKEN_BYTES) != self._token:
                return
            guest.sendall(self._token)
            while command := guest.recv(1):
                if command == b"b":
                    _take(guest, *struct.unpack("!I", _take(guest, 4)))
                if command == b"s":
                    guest.sendall(struct.pack("!Q", _drain(guest)))
                    return
                guest.sendall(command)


def _take(sock: socket.socket, size: int) -> bytes:
    """Return exactly ``size`` bytes.

    Raises:
        EOFError: the stream ended before.
    """
    parts: list[bytes] = []
    while size:
        part = sock.recv(min(size, _BUFFER))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _drain(sock: socket.socket) -> int:
    room, total = bytearray(_BUFFER), 0
    while got := sock.recv_into(room):
        total += got
    return total


def visit_all(targets: Sequence[Mapping[str, Any]], timeout: float) -> list[dict[str, Any]]:
    """Visit every target (``id``, ``host``, ``port``, ``token`` in hex, ``stream``), several at once."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(visit, targets, repeat(timeout)))


def visit(target: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Return what became of one visit: ``error`` is missing where all went well.

    ``error`` is ``unresolved``, ``refused``, ``timeout``, ``unreachable``, ``stranger``, ``stalled`` (small packets get
    through, large ones do not) or the system's word; ``rtt`` in seconds, ``mtu`` in bytes, ``rate`` in bytes a second.
    """
    found: dict[str, Any] = {"id": target["id"]}
    try:
        sock = _connect(str(target["host"]), int(target["port"]), timeout)
    except OSError as error:
        return found | {"error": _name(error)}
    with sock:
        found["source"], found["address"] = sock.getsockname()[0], sock.getpeername()[0]
        try:
            _examine(sock, bytes.fromhex(target["token"]), found, stream=bool(target.get("stream")))
        except OSError as error:
            name = _name(error)
            found["error"] = "stalled" if "rtt" in found and name == "timeout" else name
        except EOFError:
            found["error"] = "stranger" if "rtt" not in found else "reset"
        _note_mtu(sock, found)
    return found


def _connect(host: str, port: int, timeout: float) -> socket.socket:
    sock = socket.create_connection((host, port), timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _examine(sock: socket.socket, token: bytes, found: dict[str, Any], *, stream: bool) -> None:
    sock.sendall(token)
    if _take(sock, TOKEN_BYTES) != token:
        raise EOFError
    trips: list[float] = []
    for _ in range(PINGS):
        began = time.perf_counter()
        sock.sendall(b"p")
        _take(sock, 1)
        trips.append(time.perf_counter() - began)
    found["rtt"] = min(trips)
    sock.sendall(b"b" + struct.pack("!I", BULK) + bytes(BULK))
    _take(sock, 1)
    if stream:
        found["rate"] = _measure(sock)


def _measure(sock: socket.socket) -> float:
    """Return bytes a second that arrived at the other end."""
    piece, began = bytes(_BUFFER), time.perf_counter()
    sock.sendall(b"s")
    while time.perf_counter() - began < SECONDS:
        sock.sendall(piece)
    sock.shutdown(socket.SHUT_WR)
    (total,) = struct.unpack("!Q", _take(sock, 8))
    return float(total / (time.perf_counter() - began))


def _note_mtu(sock: socket.socket, found: dict[str, Any]) -> None:
    """Note what the kernel has learnt of the path's MTU; TCP forbids routers to cut its packets, so it is the path's."""
    v6 = sock.family == socket.AF_INET6
    with suppress(OSError):
        found["mtu"] = sock.getsockopt(socket.IPPROTO_IPV6 if v6 else socket.IPPROTO_IP, _IPV6_MTU if v6 else _IP_MTU)


def _name(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "unresolved"
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if error.errno in {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EINVAL, errno.EACCES, errno.EPERM}:
        return "unreachable"  # EINVAL: a blackhole route
    return "reset" if isinstance(error, ConnectionError) else error.strerror or str(error)
