"""Fixtures of all tests: nothing may leak, async tests run on both loops, time limits scale."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from multiprocessing import resource_tracker
from pathlib import Path

import pytest
import zmq

try:
    import uvloop
except ImportError:  # not on every system
    uvloop = None  # type: ignore[assignment]  # absent

pytest_plugins = ["dagrad_bus.faults.rows"]
FACTOR = float(os.environ.get("DAGRAD_TEST_TIMEOUT_FACTOR", "1"))
"""Slow machines stretch every deadline of the tests by this factor."""
GRACE = 2.0
"""Seconds a thread or descriptor may take to go after its owner has closed it."""
DESCRIPTORS = Path("/proc/self/fd")


@pytest.hookimpl(tryfirst=True)  # before the plug-in that reads the limit
def pytest_configure(config: pytest.Config) -> None:
    """Scale the time limit of a test."""
    if FACTOR != 1 and config.getoption("timeout", None) is None:
        config.option.timeout = float(config.getini("timeout")) * FACTOR


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every async test once on each event loop: its name ends in ``[asyncio]`` or ``[uvloop]``."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if uvloop is not None:
        factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.fixture(scope="session")
def timeout_factor() -> float:
    """``DAGRAD_TEST_TIMEOUT_FACTOR``, by which a test multiplies its own deadlines."""
    return FACTOR


@pytest.fixture
def until() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Return a coroutine function that waits for a condition, for 5 seconds times the factor."""

    async def wait(condition: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(5 * FACTOR):
                while not condition():  # noqa: ASYNC110  # a condition has no event to wait for
                    await asyncio.sleep(0.002)
        except TimeoutError:
            raise AssertionError(f"in vain: {inspect.getsource(condition).strip()}") from None

    return wait


@pytest.fixture(scope="session", autouse=True)
def warm_loops() -> None:
    """Start first what lives as long as the process.

    uvloop keeps two descriptors, pyzmq's zero-copy sends a thread, spawned processes a tracker with a pipe.
    """
    resource_tracker.ensure_running()
    if uvloop is not None:
        uvloop.new_event_loop().close()
    with zmq.Context() as ctx, ctx.socket(zmq.PAIR) as end, ctx.socket(zmq.PAIR) as other:
        end.bind("inproc://warm")
        other.connect("inproc://warm")
        other.send(bytes(1 << 17), copy=False)
        end.recv()


@pytest.fixture(autouse=True)
def no_leaks(warm_loops: None) -> Generator[None]:
    """Fail a test that leaves a thread or a file descriptor behind."""
    threads, descriptors = set(threading.enumerate()), _descriptors()
    yield
    deadline = time.monotonic() + GRACE * FACTOR
    for thread in set(threading.enumerate()) - threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    assert not (left := set(threading.enumerate()) - threads), f"threads left behind: {left}"
    if len(_descriptors()) > len(descriptors):
        gc.collect()
        assert len(now := _descriptors()) <= len(descriptors), f"descriptors left behind: {_new(now, descriptors)}"


def _descriptors() -> dict[str, str]:
    """Return what each open descriptor points at; empty where the system does not say."""
    found: dict[str, str] = {}
    if DESCRIPTORS.exists():
        for name in os.listdir(DESCRIPTORS):
            try:
                found[name] = os.readlink(DESCRIPTORS / name)
            except FileNotFoundError:
                continue  # the descriptor of this very listing
    return found


def _new(now: dict[str, str], before: dict[str, str]) -> dict[str, str]:
    return {fd: target for fd, target in now.items() if before.get(fd) != target}
