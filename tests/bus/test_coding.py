"""Work beside the loop: in order, bounded, and a bug in it ends its task."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from dagrad_bus.bus.coding import QUEUE, Bench

Until = Callable[[Callable[[], object]], Awaitable[None]]


@pytest.mark.asyncio
async def test_items_are_done_in_order_beside_the_loop(until: Until) -> None:
    done: list[tuple[int, int]] = []
    threads: set[str] = set()

    def work(item: int) -> int:
        threads.add(threading.current_thread().name)
        return item * item

    with ThreadPoolExecutor(2, thread_name_prefix="coder") as executor:
        bench = Bench(executor, work, lambda item, result: done.append((item, result)))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(bench.run())
            assert all(bench.put(item) for item in range(QUEUE))
            assert not bench.put(-1)
            await until(lambda: len(done) == QUEUE)
            task.cancel()
    assert done == [(item, item * item) for item in range(QUEUE)]
    assert all(name.startswith("coder") for name in threads)


@pytest.mark.asyncio
async def test_a_bug_in_the_work_ends_the_task() -> None:
    def work(item: int) -> int:
        raise RuntimeError(item)

    with ThreadPoolExecutor(1) as executor:
        bench: Bench[int, int] = Bench(executor, work, lambda item, result: None)
        bench.put(1)
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(bench.run())
    assert caught.group_contains(RuntimeError, match="1")
