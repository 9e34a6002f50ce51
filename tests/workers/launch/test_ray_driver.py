"""What is refused before Ray is asked, and how its words on a death are cut down. Texts are those of Ray 2.60."""

from __future__ import annotations

import socket

import pytest

from dagrad_bus.errors import StartError
from dagrad_bus.workers.launch.ray_driver import Wish, connect, describe_death

HEAD = "The actor died unexpectedly before finishing this task.\n\tclass_name: Carrier\n\tip: 192.0.2.2\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (HEAD + "The actor died because its node has died. Node Id: 14f5\n\tthe actor's node was terminated", "lost"),
        (HEAD + "The actor is dead because it was killed by `ray.kill`.", "the actor was killed"),
        (HEAD + "Its worker process has died. Exit type: X Some common causes include: (1) a", "Exit type: X"),
        ("", "Exception"),
    ],
)
def test_a_death_is_told_in_one_line(text: str, told: str) -> None:
    line = describe_death(Exception(text))
    assert line.startswith("Ray: ") and line.endswith(told) and "\n" not in line


@pytest.mark.parametrize("address", ["nonsense", "host:", "host:port", "http://[", "host:99999"])
def test_an_address_without_a_port_is_refused(address: str) -> None:
    with pytest.raises(StartError, match="HOST:PORT is needed"):
        connect(None, address)


def test_where_nobody_listens_ray_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartError, match=f"no Ray cluster answers at {address}: Connection refused"):
            connect(None, address)
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(StartError, match=address):
            connect(None, "")


def test_a_bundle_has_what_was_asked_for() -> None:
    wish = Wish(count=2, cpus=0.5, gpus=0, strategy="PACK", address="", listen="x", patience=1)
    assert wish.bundle == {"CPU": 0.5}
    with_gpu = Wish(count=2, cpus=4, gpus=1, strategy="PACK", address="", listen="x", patience=1)
    assert with_gpu.bundle == {"CPU": 4, "GPU": 1}
