"""The process that talks to Ray, so that the launcher does not: ``python -m dagrad_bus.workers.launch.ray_driver``.

A Ray driver takes the process over: it replaces the handler of SIGTERM, prints to stdout, and aborts when Ray's control
service is gone. Here all of that hits a process that can be spared. It reads one JSON object from stdin (:class:`Wish`),
answers by one on stdout, ``{"bundles": [...]}`` or ``{"error": text}``, and then listens on the Unix socket ``listen``.
Each connection is one agent: its first line is ``{"bundle": N, "words": [...]}``, then bytes go both ways as on the
agent's own stdin and stdout. The last line begins with :data:`TRAILER` and says why there is nothing more to read.

At the end of stdin actors and placement group are removed. Should this process be killed, as it is when its launcher
is, Ray removes them: they belong to it.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dagrad_bus.errors import StartError
from dagrad_bus.workers.launch.nursery import set_death_signal
from dagrad_bus.workers.launch.ray_actor import PART, Carrier

TRAILER = b"\0"
"""First byte of a connection's last line; no line of an agent begins with it."""
_FAREWELL = 5.0
"""Seconds an agent has to end after its launcher's connection."""
_KNOCK = 5.0
"""Seconds for the first connection to a cluster."""
_UNAVAILABLE = 120.0
"""Seconds during which an actor that Ray cannot reach, and has not declared dead, is asked again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the launcher wants of a cluster."""

    count: int
    cpus: float
    gpus: float
    strategy: str
    address: str
    listen: str
    """Path of the Unix socket."""
    patience: float
    """Seconds to wait for the placement."""

    @property
    def bundle(self) -> dict[str, float]:
        """Resources of one worker, as Ray names them."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}


class Driver:
    """A placement group and the actors in it."""

    def __init__(self, ray: Any, wish: Wish) -> None:
        """Take Ray's module, which is connected."""
        self._ray = ray
        self._wish = wish
        self._group: Any = None
        self._spare: dict[int, Any] = {}
        """Actors that have no agent yet."""

    async def place(self) -> list[dict[str, str]]:
        """Reserve the bundles and start an actor in each; return where they are.

        Raises:
            StartError: the cluster has no room for them, or cannot run our actors.
        """
        wish = self._wish
        placing = importlib.import_module("ray.util.placement_group")
        self._group = placing.placement_group([wish.bundle] * wish.count, strategy=wish.strategy)
        try:
            async with asyncio.timeout(wish.patience):
                await asyncio.wrap_future(self._group.ready().future())
        except TimeoutError:
            raise StartError(self._describe_shortage()) from None
        self._spare = {number: self._make(number) for number in range(wish.count)}
        try:
            return [await self._locate(number, actor) for number, actor in self._spare.items()]
        except self._ray.exceptions.RayActorError as error:
            raise StartError(f"an actor did not start: {describe_death(error)}") from None

    async def _locate(self, number: int, actor: Any) -> dict[str, str]:
        place: dict[str, str] = await _await(actor.locate.remote())
        return {**place, "number": str(number)}

    def _describe_shortage(self) -> str:
        """Say what was wanted and what there is."""
        wish = self._wish
        wanted = " and ".join(f"{amount:g} {kind}" for kind, amount in wish.bundle.items())
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        there = ", ".join(f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in nodes)
        return (
            f"Ray found no room for {wish.count} workers of {wanted} each ({wish.strategy}) within "
            f"{wish.patience:g} s; its nodes have in all: {there or 'nothing'}"
        )

    def _make(self, number: int) -> Any:
        """Return a new actor in a bundle. After the loss of a node the bundle, and so the actor, may be elsewhere."""
        scheduling = importlib.import_module("ray.util.scheduling_strategies")
        strategy = scheduling.PlacementGroupSchedulingStrategy(
            placement_group=self._group, placement_group_bundle_index=number
        )
        kind = self._ray.remote(Carrier)
        return kind.options(
            num_cpus=self._wish.cpus, num_gpus=self._wish.gpus, max_restarts=0, scheduling_strategy=strategy
        ).remote()

    def close(self) -> None:
        """Remove actors and placement group. Agents that are left see the end of their stdin."""
        for actor in self._spare.values():
            self._ray.kill(actor)
        if self._group is not None:
            importlib.import_module("ray.util.placement_group").remove_placement_group(self._group)

    # One agent -------------------------------------------------------------------------------------------------

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection: one agent, from its start to its end."""
        try:
            order = json.loads(await reader.readline())
            number = order["bundle"]
            actor = self._spare.pop(number, None) or self._make(number)
            try:
                async with asyncio.TaskGroup() as group:
                    inward = group.create_task(self._bring(actor, reader))
                    why = await self._fetch(actor, order["words"], writer)
                    inward.cancel()
            finally:
                self._ray.kill(actor)
            writer.write(TRAILER + json.dumps(why).encode() + b"\n")
            await writer.drain()
        except ConnectionError:
            pass  # the launcher has hung up, as it does when it has heard all it wants
        except Exception:  # noqa: BLE001  # of one agent; the others go on
            traceback.print_exc()
        finally:
            writer.close()

    async def _bring(self, actor: Any, reader: asyncio.StreamReader) -> None:
        """Relay the launcher's bytes. When there are no more the agent is given a while, then the actor is killed."""
        at = 0
        with suppress(self._ray.exceptions.RayActorError, ConnectionError):
            while data := await reader.read(PART):
                await self._call(actor.feed.remote, at, data)
                at += len(data)
        with suppress(self._ray.exceptions.RayActorError, TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                await self._call(actor.close.remote)
        await asyncio.sleep(_FAREWELL)
        self._ray.kill(actor)

    async def _fetch(self, actor: Any, words: list[str], writer: asyncio.StreamWriter) -> str:
        """Start the agent and relay what it says until it says no more; return why."""
        at = 0
        try:
            place = await self._call(actor.locate.remote)
            await self._call(
                actor.start.remote, words, {"DAGRAD_ADVERTISE": place["address"], "DAGRAD_BIND": place["bind"]}
            )
            while True:
                data, why = await self._call(actor.take.remote, at)
                if why is not None:
                    return str(why)
                at += len(data)
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            return "the launcher has hung up"
        except self._ray.exceptions.RayActorError as error:
            print(f"actor: {error}", file=sys.stderr, flush=True)
            return describe_death(error)
        except self._ray.exceptions.RayTaskError as error:
            return f"the agent cannot be started: {error.cause}"

    async def _call(self, method: Callable[..., Any], *arguments: object) -> Any:
        """Call a method of an actor, again while Ray cannot reach it: all of them may be repeated."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _UNAVAILABLE
        while True:
            try:
                return await _await(method(*arguments))
            except self._ray.exceptions.ActorUnavailableError:
                if loop.time() > deadline:
                    raise
            await asyncio.sleep(0.5)


def _await(reference: Any) -> Awaitable[Any]:
    return asyncio.wrap_future(reference.future())


def describe_death(error: Exception) -> str:
    """Return in one line why an actor is gone, out of Ray's several."""
    text = str(error)
    if "its node has died" in text:
        return "Ray: the node is lost"
    if "ray.kill" in text:
        return "Ray: the actor was killed"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"Ray: {lines[-1].partition(' Some common causes')[0] if lines else type(error).__name__}"


def connect(ray: Any, address: str) -> None:
    """Connect this process to a cluster.

    Raises:
        StartError: none answers.
    """
    if target := address or os.environ.get("RAY_ADDRESS", ""):
        _knock(target)
    try:
        ray.init(address=address or "auto", log_to_driver=False, namespace="dagrad")
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        if not target:
            raise StartError("no Ray cluster here: start one (`ray start --head`), or give its address") from None
        raise StartError(f"no Ray cluster answers at {target}: {error}") from None


def _knock(address: str) -> None:
    """Try a plain connection: Ray itself would go on for minutes where nobody listens.

    Raises:
        StartError: nobody does, or the address has no port.
    """
    try:
        place = urlsplit(address if "://" in address else f"//{address}")
        host, port = place.hostname, place.port
    except ValueError:
        host = port = None
    if address in {"auto", "local"}:
        return
    if host is None or port is None:
        raise StartError(f"Ray's address {address!r}: HOST:PORT is needed, as in 10.0.0.1:6379")
    try:
        socket.create_connection((host, port), timeout=_KNOCK).close()
    except OSError as error:
        raise StartError(f"no Ray cluster answers at {address}: {error.strerror or error}") from None


async def serve(ray: Any, wish: Wish, answer: Callable[[dict[str, Any]], None]) -> None:
    """Place the workers and carry their agents until stdin ends."""
    driver = Driver(ray, wish)
    try:
        gone = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(gone), sys.stdin)
        bundles = await driver.place()
        async with asyncio.TaskGroup() as group:
            tasks: set[asyncio.Task[None]] = set()

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = group.create_task(driver.carry(reader, writer))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

            async with await asyncio.start_unix_server(accept, wish.listen):
                answer({"bundles": bundles})
                await gone.read()
            for task in tasks:
                task.cancel()
    except StartError as error:
        answer({"error": str(error)})
    finally:
        driver.close()


def main() -> None:
    """Serve the launcher that started this process, and end with it. What Ray prints goes to stderr."""
    set_death_signal(signal.SIGKILL, parent=int(sys.argv[1]))  # Ray's own calls may wait for minutes
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    wish = Wish(**json.loads(sys.stdin.readline()))

    def answer(reply: dict[str, Any]) -> None:
        print(json.dumps(reply), file=replies, flush=True)

    ray = importlib.import_module("ray")
    try:
        connect(ray, wish.address)
    except StartError as error:
        answer({"error": str(error)})
        return
    asyncio.run(serve(ray, wish, answer))
    Path(wish.listen).unlink(missing_ok=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
