"""From any thread to a loop: no wake-up is lost, nothing waits, nothing is left."""

from __future__ import annotations

import asyncio
import os
import select
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from dagrad_bus.doorbell import Bell, Inbox
from dagrad_bus.errors import BusClosed
from dagrad_bus.handoff import loop_factory

Until = Callable[[Callable[[], object]], Awaitable[None]]


def run_loop(name: str, main: Callable[[], Any]) -> None:
    with asyncio.Runner(loop_factory=loop_factory(name)) as runner:
        runner.run(main())


def feed(inbox: Inbox[int], total: int) -> None:
    """Put all numbers, each again where there was no room."""
    number = 0
    with suppress(BusClosed):
        while number < total:
            number += inbox.put(number)


@pytest.mark.parametrize("loop_name", ["asyncio", "uvloop"])
def test_no_wake_up_is_ever_lost(loop_name: str, until: Until) -> None:
    total, seen = 80_000, list[int]()

    async def main() -> None:
        inbox = Inbox(seen.append, 64)
        inbox.start(asyncio.get_running_loop(), lambda error: None)
        thread = threading.Thread(target=feed, args=(inbox, total))
        thread.start()
        try:
            await until(lambda: len(seen) == total)
        finally:
            inbox.close()  # where items stopped coming, the feeding thread ends with BusClosed
            thread.join()

    former = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        run_loop(loop_name, main)
    finally:
        sys.setswitchinterval(former)
    assert seen == list(range(total))


@pytest.mark.asyncio
@pytest.mark.parametrize("gap", ["before", "after"])
async def test_an_item_put_while_the_bell_is_silenced_costs_no_wake_up(
    until: Until, monkeypatch: pytest.MonkeyPatch, gap: str
) -> None:
    seen: list[int] = []
    inbox = Inbox(seen.append, 9)
    inbox.start(asyncio.get_running_loop(), lambda error: None)
    silence = inbox._bell.silence

    def interrupted() -> None:
        if gap == "after":
            silence()
        inbox.put(2)
        if gap == "before":
            silence()

    monkeypatch.setattr(inbox._bell, "silence", interrupted)
    inbox.put(1)
    await until(lambda: seen == [1, 2])
    monkeypatch.undo()
    inbox.put(3)
    await until(lambda: seen == [1, 2, 3])
    inbox.close()


@pytest.mark.asyncio
async def test_a_full_inbox_says_no_and_takes_nothing(until: Until) -> None:
    seen: list[int] = []
    inbox = Inbox(seen.append, 3)
    inbox.start(asyncio.get_running_loop(), lambda error: None)
    assert [inbox.put(number) for number in range(5)] == [True, True, True, False, False]
    await until(lambda: len(seen) == 3)
    assert inbox.put(9)
    inbox.close()
    assert seen == [0, 1, 2]


@pytest.mark.asyncio
async def test_a_closed_inbox_refuses_and_closes_twice() -> None:
    inbox: Inbox[int] = Inbox(lambda item: None, 3)
    inbox.start(asyncio.get_running_loop(), lambda error: None)
    inbox.close()
    inbox.close()
    with pytest.raises(BusClosed):
        inbox.put(1)


def test_an_inbox_that_never_started_leaves_nothing() -> None:
    Inbox(lambda item: None, 3).close()


@pytest.mark.asyncio
async def test_what_delivering_raises_is_reported(until: Until) -> None:
    bug, errors = RuntimeError("a bug"), list[Exception]()

    def deliver(item: int) -> None:
        raise bug

    inbox = Inbox(deliver, 3)
    inbox.start(asyncio.get_running_loop(), errors.append)
    inbox.put(1)
    await until(lambda: errors)
    inbox.close()
    assert errors == [bug]


@pytest.mark.parametrize("eventfd", [True, False])
def test_the_bell_rings_until_it_is_silenced(monkeypatch: pytest.MonkeyPatch, eventfd: bool) -> None:
    if not eventfd:
        monkeypatch.delattr(os, "eventfd")
    bell = Bell()
    try:
        assert select.select([bell], [], [], 0)[0] == []
        bell.ring()
        bell.ring()
        assert select.select([bell], [], [], 1)[0] == [bell]
        bell.silence()
        assert select.select([bell], [], [], 0)[0] == []
    finally:
        bell.close()


# The bus thread --------------------------------------------------------------------------------------------------
