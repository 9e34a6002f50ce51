"""Addresses in a key-value store of torch, and what happens when its server is gone."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import dagrad_bus
from dagrad_bus.attach import store as store_module
from dagrad_bus.attach.store import Store, open_rendezvous
from dagrad_bus.errors import RendezvousLost
from dagrad_bus.rendezvous import Address
from dagrad_bus.settings import Settings

pytestmark = pytest.mark.slow  # the store is served by a process that loads torch
ADDRESS = Address(name="torchrun.0", pid=5, epoch=7, inbox="tcp://127.0.0.1:1000", beat="tcp://[::1]:1001")


SERVE = """
import time
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
print(store.port, flush=True)
time.sleep(600)
"""


@contextmanager
def serving() -> Generator[tuple[subprocess.Popen[str], int]]:
    """Serve a store from a process of its own, as torchrun's agent does; yield it and its port."""
    with subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


@pytest.fixture(scope="module")
def port() -> Generator[int]:
    """Serve one store for all tests."""
    with serving() as (_, number):
        yield number


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """Return a prefix that no other test uses."""
    return f"d/{request.node.name}"


def settings(port: int, prefix: str, rank: int) -> Settings:
    names = ("torchrun.0", "torchrun.1")
    return Settings(run="r", name=names[rank], members=names, rendezvous=f"torchstore://127.0.0.1:{port}/{prefix}")


def test_what_is_published_is_found_and_nothing_is_waited_for(port: int, prefix: str) -> None:
    one, other = Store("127.0.0.1", port, prefix), Store("127.0.0.1", port, prefix)
    began = time.monotonic()
    assert other.look_up("torchrun.0") is None
    assert other.names() == []
    assert time.monotonic() - began < 2
    one.publish(ADDRESS)
    one.publish(replace(ADDRESS, epoch=8))
    assert other.look_up("torchrun.0") == replace(ADDRESS, epoch=8)
    assert other.names() == ["torchrun.0"]
    restarted = Store("127.0.0.1", port, f"{prefix}/1")
    assert restarted.names() == []


def test_all_get_the_key_that_the_first_one_drew(port: int, prefix: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(Store("127.0.0.1", port, prefix).key) for _ in range(8)]
        keys = [each.result() for each in asked]
    assert len(set(keys)) == 1
    assert len(keys[0]) == 64
    assert Store("127.0.0.1", port, f"{prefix}/1").key() != keys[0]


def test_what_makes_no_sense_is_no_address(port: int, prefix: str) -> None:
    store = Store("127.0.0.1", port, prefix)
    store._store.set(f"{prefix}/peers/torchrun.0", '{"name": 5}')
    assert store.look_up("torchrun.0") is None


def test_settings_without_a_store_open_none() -> None:
    assert open_rendezvous(Settings()) == (Settings(), None)


def test_the_key_comes_from_the_store_unless_there_is_one(port: int, prefix: str) -> None:
    found, place = open_rendezvous(settings(port, prefix, 0))
    again, _ = open_rendezvous(settings(port, prefix, 1))
    own, _ = open_rendezvous(replace(settings(port, prefix, 1), key=b"own"))
    assert place is not None and found.key == again.key != b"" and own.key == b"own"


def test_nobody_at_the_address_is_an_error_unless_others_can_be_found_without(
    port: int, prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(store_module, "PATIENCE", 0.3)
    lost = replace(settings(port, prefix, 0), rendezvous="torchstore://127.0.0.1:9/d/r/0")
    with pytest.raises(RendezvousLost, match=r"torchstore://127\.0\.0\.1:9/d/r/0"):
        open_rendezvous(lost)
    found, place = open_rendezvous(replace(lost, directory=tmp_path, key=b"k"))
    assert place is None and not found.rendezvous


@pytest.mark.timeout(60)
def test_two_attachments_exchange_by_the_store_alone_and_outlive_it(timeout_factor: float) -> None:
    with serving() as (process, port):
        made = [
            Settings(run="r", name=f"t.{n}", members=("t.0", "t.1"), rendezvous=f"torchstore://127.0.0.1:{port}/d")
            for n in (0, 1)
        ]
        models = [torch.nn.Linear(8, 8) for _ in made]
        optimizers = [torch.optim.SGD(model.parameters(), lr=0.01) for model in models]
        with (
            dagrad_bus.attach(models[0], optimizers[0], settings=made[0]) as a,
            dagrad_bus.attach(models[1], optimizers[1], settings=made[1]) as b,
        ):
            for gone in (False, True):
                if gone:
                    process.kill()
                    process.wait()
                seen = _mixed(a), _mixed(b)
                deadline = time.monotonic() + 10 * timeout_factor
                while not (_mixed(a) > seen[0] and _mixed(b) > seen[1]):
                    assert time.monotonic() < deadline, "no frame was mixed"
                    for model, optimizer in zip(models, optimizers, strict=True):
                        model.zero_grad()
                        model(torch.ones(1, 8)).sum().backward()
                        optimizer.step()
                    time.sleep(0.01)
            difference = models[0].weight.detach().numpy() - models[1].weight.detach().numpy()
            assert np.isfinite(difference).all()


def _mixed(attachment: dagrad_bus.Attachment) -> int:
    found = attachment.metrics()["counters"].get("frames_mixed", 0)
    assert isinstance(found, int)
    return found
