"""The agent: one process a host that runs its workers by order of a launcher, and outlives the line to it.

::

    python -u -m dagrad_bus.workers.launch.agent      orders on stdin, reports on stdout

Orders and reports are those of :mod:`dagrad_bus.workers.launch.orders`. Workers live as long as the lease: a line that
is cut ends nothing by itself. A launcher that comes back starts another agent process, whose first order is ``attach``:
that one finds the running agent by its socket and passes bytes both ways. It has said its own ``hello`` before, so the
launcher hears two; the second is of the agent that serves it.

==================  =================================================================================================
what ends           what follows
==================  =================================================================================================
the line            the lease runs out, unless a launcher comes back: then as below
the lease           workers are stopped, then the agent ends
the agent, SIGTERM  likewise
the agent, SIGKILL  its nursery sees the end of their stream and stops the workers
``finish``          the agent ends, and removes its private folder
==================  =================================================================================================

Only the standard library is imported here: ``hello`` must come at once, on any host.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from importlib import metadata

from dagrad_bus.errors import BusError, StartError, UsageError
from dagrad_bus.workers.launch.connection import LIMIT, Connection, open_standard
from dagrad_bus.workers.launch.environment import count_cores
from dagrad_bus.workers.launch.orders import Attach, BadLine, Fault, Hello, Renew, Start, parse_order
from dagrad_bus.workers.launch.quarters import find
from dagrad_bus.workers.launch.station import Station

WIRE = 1
"""``dagrad_bus.wire.MAJOR``, whose module would bring numpy along."""


def describe_agent() -> Hello:
    """Return who this process is."""
    try:
        version = metadata.version("dagrad-bus")
    except metadata.PackageNotFoundError:
        version = "(not installed)"
    return Hello(
        pid=os.getpid(),
        python=sys.version.split()[0],
        version=version,
        wire=WIRE,
        hostname=socket.gethostname(),
        cores=count_cores(),
        clock=time.time(),
    )


async def serve(line: Connection, environ: Mapping[str, str]) -> int:
    """Greet, take the first order and do what it says; return the exit code."""
    hello = describe_agent()
    line.send(hello)
    while text := await line.read():
        try:
            order = parse_order(text)
        except BadLine as error:
            line.send(Fault(text=str(error), code=2))
            continue
        match order:
            case Start():
                return await _run(order, line, hello, environ)
            case Attach():
                return await _find_running(order, line, environ)
            case Renew():
                pass
            case _:
                line.send(Fault(text=f"{order.op}: the first order is start or attach", code=2))
    return 0


async def _run(start: Start, line: Connection, hello: Hello, environ: Mapping[str, str]) -> int:
    """Begin a host's part of a run, and do it to its end."""
    try:
        station = Station(start, line, hello, environ)
    except UsageError as error:
        line.send(Fault(text=str(error), code=2))
        await line.close()
        return 2
    try:
        code = await station.run()
    except BusError as error:
        code = 2 if isinstance(error, UsageError) else getattr(error, "code", 125)
        await station.close(Fault(text=str(error), code=code))
        return code
    await station.close()
    return code


async def _find_running(order: Attach, line: Connection, environ: Mapping[str, str]) -> int:
    """Pass bytes between the launcher and the agent that runs here already."""
    try:
        path = find(order.run, order.host, environ).socket
        reader, writer = await asyncio.open_unix_connection(str(path), limit=LIMIT)
    except (UsageError, OSError):
        line.send(Fault(text=f"no agent of {order.host} runs here any more", gone=True))
        await line.close()
        return 1
    running = Connection(reader, writer)
    running.send(order)
    async with asyncio.TaskGroup() as group:
        back = group.create_task(running.pass_on(line), name="dagrad.agent.back")
        forth = group.create_task(line.pass_on(running), name="dagrad.agent.forth")
        await asyncio.wait([back, forth], return_when=asyncio.FIRST_COMPLETED)
        back.cancel()
        forth.cancel()
    running.drop()
    await line.close()
    return 0


def main() -> int:
    """Serve the launcher at the other end of stdin and stdout; return the exit code."""
    source, target = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever prints from now on cannot get between the reports
    with open(os.devnull, "rb") as empty:
        os.dup2(empty.fileno(), 0)

    async def talk() -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGHUP):  # the launcher's affair; ignored ones would be ignored by workers
            loop.add_signal_handler(number, lambda: None)
        return await serve(await open_standard(source, target), os.environ)

    try:
        with asyncio.Runner() as runner:
            return runner.run(talk())
    except StartError as error:
        print(f"dagrad: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
