"""Ray carries agents: lines arrive whole and in order, and whatever dies, no process stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dagrad_bus.errors import StartError
from dagrad_bus.faults.engines import plain_environ, why_no_frameworks
from dagrad_bus.workers.launch.orders import Finish, Order, Start, WorkerOrder, encode
from dagrad_bus.workers.launch.ray import Bundle, RayPipe, open_ray

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(180)]
NODES = Path(__file__).with_name("ray_nodes.py")
ECHO = """
import ctypes, json, os, sys
death = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(death))
blocked = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("SigBlk"))
told = os.environ.get("DAGRAD_ADVERTISE")
print(json.dumps([os.getpid(), os.getppid(), death.value, int(blocked, 16), told]), flush=True)
for line in sys.stdin.buffer:
    if line == b"die\\n":
        sys.exit("so be it")
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
"""
STAND_IN = ["", "-u", "-c", ECHO]
LOST = 40.0
"""Seconds until Ray declares a node dead: 15 at most by its own settings, measured."""


class Nodes:
    """A cluster of this host's, in a process of its own (ray_nodes.py)."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid
        self.address = str(self._hear()["address"])

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    async def order(self, words: str) -> None:
        """Have it do something, and wait until it is done."""
        assert self._process.stdin is not None
        self._process.stdin.write(words.encode() + b"\n")
        self._process.stdin.flush()
        assert (await asyncio.to_thread(self._hear))["done"] == words


@pytest.fixture
def nodes(tmp_path: Path) -> Generator[Nodes]:
    """Three nodes with a CPU each."""
    if reason := why_no_frameworks("ray"):
        pytest.skip(reason)
    with (
        (tmp_path / "nodes.err").open("wb") as errors,
        subprocess.Popen(
            [sys.executable, str(NODES), "3"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=plain_environ(),
        ) as process,
    ):
        yield Nodes(process)


@pytest.fixture
def run(timeout_factor: float) -> Callable[[Awaitable[None]], None]:
    """Run a coroutine on the loop that the launcher has."""

    def call(job: Awaitable[None]) -> None:
        async def limited() -> None:
            async with asyncio.timeout(150 * timeout_factor):
                await job

        asyncio.run(limited())

    return call


def lives(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    with contextlib.suppress(OSError):
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


async def await_end(pids: list[int], seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while any(map(lives, pids)):  # noqa: ASYNC110  # processes of others
            await asyncio.sleep(0.05)


async def hear(pipe: RayPipe) -> list[Any]:
    answer: list[Any] = json.loads(await pipe.read())
    return answer


def test_lines_go_both_ways_whole_and_in_order(
    nodes: Nodes, tmp_path: Path, run: Callable[[Awaitable[None]], None]
) -> None:
    lines = [b"%d\n" % n for n in range(1000)] + [b"y" * ((1 << 20) - 1) + b"\n"] * 3 + [b"end\n"]

    async def exchange(bundle: Bundle) -> None:
        async with bundle.open_pipe(STAND_IN) as pipe:
            _, _, death, blocked, told = await hear(pipe)
            assert (death, blocked, told) == (signal.SIGTERM, 0, bundle.address)
            for line in lines:
                pipe.write(line)
            for line in lines:
                assert await pipe.read() == line
            pipe.write(b"die\n")
            assert await pipe.read() == b""
            assert pipe.describe_end() == "the agent ended with code 1: so be it"
        async with bundle.open_pipe(["/none"]) as pipe:  # the bundle can be used again
            assert await pipe.read() == b""
            assert pipe.describe_end() == "the agent ended with code 1: /none: No such file or directory"

    async def main() -> None:
        async with open_ray(3, errors=tmp_path / "ray.log", strategy="STRICT_SPREAD", address=nodes.address) as bundles:
            assert [bundle.number for bundle in bundles] == [0, 1, 2]
            async with asyncio.TaskGroup() as group:
                for bundle in bundles:
                    group.create_task(exchange(bundle))

    run(main())


async def lose_an_actor(bundle: Bundle) -> None:
    async with bundle.open_pipe(STAND_IN) as pipe:
        pid, actor, *_ = await hear(pipe)
        os.kill(actor, signal.SIGKILL)
        assert await pipe.read() == b""
        assert "worker process has died" in pipe.describe_end()
        await await_end([pid])


async def lose_a_node(nodes: Nodes, bundles: list[Bundle]) -> None:
    """Kill a raylet; the bundle that was there moves to a node that is added."""
    async with contextlib.AsyncExitStack() as stack:
        pipes = [await stack.enter_async_context(bundle.open_pipe(STAND_IN)) for bundle in bundles]
        pids = [(await hear(pipe))[0] for pipe in pipes]
        await nodes.order("kill 2")
        async with asyncio.timeout(LOST):
            while all(map(lives, pids)):  # noqa: ASYNC110  # processes of others
                await asyncio.sleep(0.05)
            hit = next(n for n, pid in enumerate(pids) if not lives(pid))
            assert await pipes[hit].read() == b""
        assert pipes[hit].describe_end() == "Ray: the node is lost"
        await nodes.order("add")
        async with bundles[hit].open_pipe(STAND_IN) as again, asyncio.timeout(LOST):
            assert (await hear(again))[2] == signal.SIGTERM
    await await_end(pids)


async def lose_the_driver(bundles: list[Bundle]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        pipes = [await stack.enter_async_context(bundle.open_pipe(STAND_IN)) for bundle in bundles]
        pids = [(await hear(pipe))[0] for pipe in pipes]
        os.kill(driver_of(os.getpid()), signal.SIGKILL)
        assert await pipes[0].read() == b""
        assert pipes[0].describe_end().startswith("the Ray driver has ended")
        await await_end(pids)


def test_what_dies_is_described_and_leaves_nothing(
    nodes: Nodes, tmp_path: Path, run: Callable[[Awaitable[None]], None]
) -> None:
    async def main() -> None:
        async with open_ray(3, errors=tmp_path / "ray.log", strategy="STRICT_SPREAD", address=nodes.address) as bundles:
            await lose_an_actor(bundles[0])
            await lose_a_node(nodes, bundles)
            await lose_the_driver(bundles)

    run(main())


def driver_of(parent: int) -> int:
    """Return the pid of the child that is a Ray driver."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ours = f"\nPPid:\t{parent}\n" in (entry / "status").read_text()
            if ours and b"launch.ray_driver" in (entry / "cmdline").read_bytes():
                return int(entry.name)
    raise AssertionError("there is no Ray driver")


def test_a_start_that_cannot_be_is_refused_in_one_line(
    nodes: Nodes, tmp_path: Path, run: Callable[[Awaitable[None]], None]
) -> None:
    async def refusal(count: int, address: str) -> str:
        with pytest.raises(StartError) as caught:
            async with open_ray(
                count, errors=tmp_path / "ray.log", strategy="STRICT_SPREAD", address=address, patience=1.0
            ):
                pass
        return str(caught.value)

    async def main() -> None:
        told = await refusal(4, nodes.address)
        assert told.startswith("Ray found no room for 4 workers of 1 CPU each (STRICT_SPREAD) within 1 s; its nodes")
        assert told.count("1 CPU and 0 GPU") == 3
        assert await refusal(1, "127.0.0.1:1") == "no Ray cluster answers at 127.0.0.1:1: Connection refused"
        assert "HOST:PORT is needed" in await refusal(1, "nonsense")

    run(main())


def test_the_real_agent_runs_a_command_in_a_bundle(
    nodes: Nodes, tmp_path: Path, run: Callable[[Awaitable[None]], None]
) -> None:
    program = "import os; print('told', os.environ['DAGRAD_NAME'], os.environ['DAGRAD_ADVERTISE']); raise SystemExit(7)"
    worker = WorkerOrder(name="ray.0", slot=0)
    start: Order = Start(
        run="0123456789abcdef",
        host="ray",
        key="00" * 32,
        roster=["ray.0"],
        command=["python", "-c", program],
        cwd=str(tmp_path),
        workers=[worker],
        preload=["none"],
    )

    async def main() -> None:
        async with (
            open_ray(1, errors=tmp_path / "ray.log", address=nodes.address) as (bundle,),
            bundle.open_pipe() as pipe,
        ):
            reports: list[dict[str, Any]] = [json.loads(await pipe.read())]
            assert reports[0]["op"] == "hello"
            pipe.write(encode(start))
            while reports[-1]["op"] != "drained":
                reports.append(json.loads(await pipe.read()))
            pipe.write(encode(Finish()))
            while line := await pipe.read():
                reports.append(json.loads(line))
            assert pipe.describe_end() == ""
        ended = next(report for report in reports if report["op"] == "exited")
        assert (ended["name"], ended["code"]) == ("ray.0", 7)
        text = "".join(r["data"] for r in reports if r["op"] == "chunk" and r["file"] == "logs/ray.0.log")
        assert text == f"told ray.0 {bundle.address}\n"
        await await_end([reports[0]["pid"], ended["pid"]])

    run(main())


# dagrad run --on ray -----------------------------------------------------------------------------------------------


def start_run(
    nodes: Nodes, folder: Path, count: int, *command: str, options: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """Start ``dagrad run --on ray``; stdout and stderr go to ``folder.out``."""
    words = ["run", "--on", "ray", "-n", str(count), "--dir", str(folder), "--progress", "none", *options]
    with folder.with_suffix(".out").open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "dagrad_bus.tools.cli", *words, "--", *command],
            env=plain_environ() | {"RAY_ADDRESS": nodes.address},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )


def text_of(folder: Path) -> str:
    return folder.with_suffix(".out").read_text()


def wait_until(holds: Callable[[], object], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, inspect.getsource(holds)
        time.sleep(0.1)


def family(nodes: Nodes) -> set[int]:
    """Return the processes of ours that the cluster has started: agents, nurseries, workers."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    agents = {pid for pid in parents if b"launch.agent" in command_line(pid) and is_below(pid, nodes.pid, parents)}
    return {pid for pid in parents if any(is_below(pid, agent, parents) for agent in agents)}


def is_below(pid: int, top: int, parents: dict[int, int]) -> bool:
    while pid not in {0, top}:
        pid = parents.get(pid, 0)
    return pid == top


def command_line(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def steps(folder: Path, worker: str) -> int:
    """Return the last step in a worker's journal."""
    with contextlib.suppress(OSError):
        lines = [json.loads(line) for line in (folder / "workers" / f"{worker}.jsonl").read_text().splitlines()[:-1]]
        return max((line["step"] for line in lines if "step" in line), default=0)
    return 0


DIGITS = ("python", "-m", "dagrad_bus.workers.digits", "--pace", "0.05", "--steps")


def test_digits_learn_together(nodes: Nodes, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    started = start_run(nodes, folder, 3, *DIGITS, "100", options=["--strategy", "STRICT_SPREAD"])
    assert started.wait(120) == 0, text_of(folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["mixing"]["verdict"] == "mixed" and summary["accuracy"]["worst"] > 0.9
    assert [worker["name"] for worker in summary["workers"]] == ["ray-0.0", "ray-1.0", "ray-2.0"]
    assert not family(nodes)


def test_a_lost_node_is_survived_and_a_killed_launcher_leaves_nothing(nodes: Nodes, tmp_path: Path) -> None:
    """The two others train on; the lost worker starts again on the node that is added."""
    folder = tmp_path / "run"
    started = start_run(nodes, folder, 3, *DIGITS, "100000", options=["--strategy", "STRICT_SPREAD"])
    names = [f"ray-{n}.0" for n in range(3)]
    wait_until(lambda: all(steps(folder, name) > 20 for name in names))
    asyncio.run(nodes.order("kill 2"))
    wait_until(lambda: any(f"{name} " in text_of(folder) and "lost" in text_of(folder) for name in names))
    before = {name: steps(folder, name) for name in names}
    wait_until(lambda: sum(steps(folder, name) > before[name] + 40 for name in names) == 2)
    lost = min(names, key=lambda name: steps(folder, name) - before[name])
    asyncio.run(nodes.order("add"))
    wait_until(lambda: steps(folder, lost) > before[lost] + 40)
    ours = family(nodes)
    assert len(ours) >= 9  # agent, nursery, worker
    started.kill()
    started.wait()
    wait_until(lambda: not any(map(lives, ours)), seconds=30)


def test_frameworks_see_a_world_of_one(nodes: Nodes, tmp_path: Path) -> None:
    if reason := why_no_frameworks("accelerate", "transformers", "lightning"):
        pytest.skip(reason)
    folder = tmp_path / "run"
    program = str(Path(__file__).with_name("frameworks.py"))
    frameworks = ("accelerate", "transformers", "lightning")
    started = start_run(nodes, folder, 2, program, *frameworks)
    assert started.wait(150) == 0, text_of(folder)
    for name in ("ray-0.0", "ray-1.0"):
        lines = (folder / "logs" / f"{name}.log").read_text().splitlines()
        reports = [json.loads(line) for line in lines if line.startswith('{"')]
        assert [(report["framework"], report["world"]) for report in reports] == [(one, 1) for one in frameworks]
