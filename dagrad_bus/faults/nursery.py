"""A warm process that forks the workers of a herd: ``python -m dagrad_bus.faults.nursery FD``.

It has imported all they need, runs one thread, and leaves none of them behind: when its socket closes it kills and
reaps what it started; should it be killed itself, the kernel kills its workers.

One packet an order: the worker's configuration as JSON, with one end of its control line as a descriptor. Answers are
packets too: ``{"started": pid}``, and ``{"exited": pid, "code": ..., "signal": ...}`` when a worker has ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any, cast

from dagrad_bus.faults import worker
from dagrad_bus.faults.lines import Line

PACKET = 1 << 18
"""Bytes of an order at most."""
LOOK = 0.05
"""Seconds between two looks for workers that ended."""
_PDEATHSIG = 1


def main(fd: int) -> None:
    """Fork workers until the socket closes."""
    orders = socket.socket(fileno=fd)
    gc.collect()
    gc.freeze()  # pages that a collection would write to stay shared with the children
    alive: set[int] = set()
    try:
        while True:
            if select.select([orders], [], [], LOOK)[0]:
                packet, fds, _, _ = socket.recv_fds(orders, PACKET, 1)
                if not packet:
                    return
                alive.add(_fork(orders, json.loads(packet), fds[0]))
            _reap(orders, alive)
    except OSError:
        return
    finally:
        for pid in alive:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _reap(orders: socket.socket, alive: set[int]) -> None:
    """Report the workers that have ended."""
    for pid in list(alive):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            alive.discard(pid)
            code = os.waitstatus_to_exitcode(status)
            report = {"exited": pid, "code": max(code, 0), "signal": max(-code, 0)}
            orders.send(json.dumps(report).encode())


def _fork(orders: socket.socket, config: dict[str, Any], line_fd: int) -> int:
    pid = os.fork()
    if pid:
        os.close(line_fd)
        orders.send(json.dumps({"started": pid}).encode())
        return pid
    code = 1
    try:
        orders.close()
        _settle_in(config)
        worker.run(Line(socket.socket(fileno=line_fd)), config)
        code = 0
    except BaseException as error:  # noqa: BLE001  # outermost line of the process: into its log
        sys.stderr.write(f"{error!r}\n")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _settle_in(config: dict[str, Any]) -> None:
    """Become what the order says: output, network namespace, limits, cores."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    log = os.open(config["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    if namespace := config.get("namespace"):
        with Path("/run/netns", namespace).open("rb") as file:
            if libc.setns(file.fileno(), 0):
                raise OSError(ctypes.get_errno(), f"cannot enter namespace {namespace}")
    if cores := config.get("cores"):
        os.sched_setaffinity(0, cores)
    for name, soft in config.get("limits", {}).items():
        kind = cast(int, getattr(resource, f"RLIMIT_{name}"))
        resource.setrlimit(kind, (soft, resource.getrlimit(kind)[1]))


if __name__ == "__main__":
    main(int(sys.argv[1]))
