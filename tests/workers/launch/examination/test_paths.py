from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from dagrad_bus.workers.launch.examination import paths
from dagrad_bus.workers.launch.examination.paths import Listeners, visit, visit_all

TOKEN = bytes(range(16))
PORTS = range(20000, 32001)


def _target(port: int, **values: Any) -> dict[str, Any]:
    return {"id": ["b", port], "host": "127.0.0.1", "port": port, "token": TOKEN.hex(), **values}


@pytest.fixture
def listeners() -> Generator[Listeners]:
    with closing(Listeners(TOKEN)) as found:
        found.open(PORTS, 2)
        yield found


def test_a_visit_measures_the_path(listeners: Listeners, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "SECONDS", 0.1)
    assert len(listeners.ports) == 2 and all(port in PORTS for port in listeners.ports)
    first, second = visit_all([_target(listeners.ports[0]), _target(listeners.ports[1], stream=True)], 2.0)
    assert first["id"] == ["b", listeners.ports[0]] and "error" not in first and "rate" not in first
    assert 0 < first["rtt"] < 1 and first["mtu"] > 1000 and first["source"] == "127.0.0.1"
    assert second["rate"] > 1e6


def test_a_closed_port_is_refused() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert visit(_target(port), 1.0)["error"] == "refused"
    assert visit(_target(port) | {"host": "nosuch.invalid"}, 1.0)["error"] == "unresolved"


@contextmanager
def _stranger(answer: bytes | None) -> Generator[int]:
    """Serve one guest: read the token, say ``answer``, read on without a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            guest, _ = server.accept()
            with guest:
                guest.recv(16)
                if answer is not None:
                    guest.sendall(answer)
                    for _ in range(5):
                        guest.sendall(guest.recv(1))
                    while guest.recv(1 << 16):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def test_who_does_not_know_the_token_is_a_stranger(listeners: Listeners) -> None:
    with _stranger(None) as port:
        assert visit(_target(port), 1.0)["error"] == "stranger"
    other = _target(listeners.ports[0]) | {"token": bytes(16).hex()}
    assert visit(other, 1.0)["error"] == "stranger"


def test_a_path_that_swallows_large_packets_is_stalled() -> None:
    with _stranger(TOKEN) as port:
        found = visit(_target(port), 0.2)
    assert found["error"] == "stalled" and found["rtt"] > 0


def test_a_full_range_says_so() -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        found = Listeners(TOKEN)
        found.open([port], 1)
    assert found.ports == [] and found.tried == 1 and found.error


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (TimeoutError(), "timeout"),
        (ConnectionResetError(), "reset"),
        (OSError(113, "No route to host"), "unreachable"),
        (OSError(22, "Invalid argument"), "unreachable"),
        (OSError(105, "No buffer space available"), "No buffer space available"),
    ],
)
def test_errors_have_stable_names(error: OSError, name: str) -> None:
    assert paths._name(error) == name
