"""The proxy in a process of its own obeys, says what it cannot do, and ends with its line."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from dagrad_bus.faults.lines import OrderFailed
from dagrad_bus.faults.remote import RemoteProxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


def test_orders_are_carried_out_over_the_line() -> None:
    with RemoteProxy(1) as proxy, socket.create_server(("127.0.0.1", 0)) as server:
        port = proxy.ask("open", route="r", upstream=server.getsockname())["port"]
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"hello")
            accepted, _ = server.accept()
            with accepted:
                assert accepted.recv(5) == b"hello"
                assert proxy.ask("set", route="r", delay=0.01)["matching"] == 1
                assert proxy.ask("reset", route="r")["matching"] == 1
                with pytest.raises(ConnectionError):
                    accepted.recv(1)
        assert proxy.counts()["resets"] == 1
        proxy.ask("record", route="r", messages=3)
        assert proxy.ask("tape", route="r", peer="00")["messages"] == []
        with pytest.raises(OrderFailed, match="no such order"):
            proxy.ask("nonsense")
        with pytest.raises(OrderFailed):
            proxy.ask("set", nonsense=1)
        pid = proxy.pid
    assert not Path(f"/proc/{pid}").exists()
