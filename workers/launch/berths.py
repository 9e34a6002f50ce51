"""Who runs where: from hosts and their slots to berths, each with a way to reach its agent."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dagrad_bus.workers.launch.addresses import of_name, towards
from dagrad_bus.workers.launch.brief import Berth
from dagrad_bus.workers.launch.hostfile import Host
from dagrad_bus.workers.launch.orders import WorkerOrder
from dagrad_bus.workers.launch.pipes import AGENT, Pipe, local_agent, open_process
from dagrad_bus.workers.launch.ssh import LOCAL_NAMES, is_local, python_words, real_name, ssh_words

_KEPT = ("label", "host", "user", "port", "python", "cwd", "addr")
LOCAL = "local"
"""Label of the launcher's own host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What every way to an agent needs."""

    folder: Path
    """Run folder; an agent's stderr goes to its ``logs``."""
    env: Mapping[str, str]
    """Environment of the ssh client, or of a local agent."""
    ssh_config: Path | None = None
    outlives: bool = False
    """Agents on this host outlive the launcher."""


def local_berth(count: int, reach: Reach) -> Berth:
    """Return ``count`` slots on this host."""
    workers = tuple(WorkerOrder(name=f"{LOCAL}.{slot}", slot=slot) for slot in range(count))
    return _here(LOCAL, workers, reach)


def host_berths(hosts: Sequence[Host], reach: Reach) -> list[Berth]:
    """Return a berth for each host; those on this machine need no ssh."""
    others = [host for host in hosts if not is_local(host)]
    berths: list[Berth] = []
    for host in hosts:
        workers = tuple(_order(host, slot) for slot in host.slot_numbers)
        if is_local(host):
            berths.append(_here(host.label, workers, reach, host.addr or _outward(others, reach), host.cwd))
        else:
            berths.append(_there(host, workers, reach))
    return berths


def _outward(others: Sequence[Host], reach: Reach) -> str:
    """Return the address by which other hosts reach this one; empty where there are none, or all are this one."""
    ways = (towards(host.addr or host.host) or towards(real_name(host, config=reach.ssh_config)) for host in others)
    found = next((way for way in ways if way), None)
    is_far = any(host.host not in LOCAL_NAMES for host in others)
    return found or (of_name(socket.gethostname()) if is_far else None) or ""


def agent_words(host: Host, config: Path | None) -> list[str]:
    """Return the command line that starts the agent of a remote host."""
    return ssh_words(host, python_words(host, AGENT), config=config)


def _order(host: Host, slot: int) -> WorkerOrder:
    env = {"DAGRAD_DEVICE": host.device(slot)} if host.device(slot) else {}
    return WorkerOrder(name=f"{host.label}.{slot}", slot=slot, env=env)


def _here(label: str, workers: tuple[WorkerOrder, ...], reach: Reach, advertise: str = "", cwd: str = "") -> Berth:
    def dial() -> AbstractAsyncContextManager[Pipe]:
        return open_process(local_agent(), env=reach.env, errors=_errors(reach, label), outlives=reach.outlives)

    return Berth(label=label, workers=workers, dial=dial, is_local=True, advertise=advertise, cwd=cwd, where="here")


def _there(host: Host, workers: tuple[WorkerOrder, ...], reach: Reach) -> Berth:
    words = agent_words(host, reach.ssh_config)

    def dial() -> AbstractAsyncContextManager[Pipe]:
        return open_process(words, env=reach.env, errors=_errors(reach, host.label))

    where = f"{host.user}@{host.host}" if host.user else host.host
    return Berth(
        label=host.label,
        workers=workers,
        dial=dial,
        advertise=host.addr,
        cwd=host.cwd,
        where=f"{where}:{host.port}" if host.port else where,
    )


def _errors(reach: Reach, label: str) -> Path:
    return reach.folder / "logs" / f"{label}.agent.log"


def describe(hosts: Sequence[Host]) -> list[dict[str, Any]]:
    """Return what ``run.json`` keeps of the hosts, so that a later launcher finds their agents."""
    return [{name: getattr(host, name) for name in _KEPT} | {"slots": list(host.slot_numbers)} for host in hosts]


def restore(described: Sequence[Mapping[str, Any]]) -> tuple[Host, ...]:
    """Return the hosts that :func:`describe` wrote down.

    Raises:
        KeyError, TypeError: it did not.
    """
    return tuple(
        Host(**{name: one[name] for name in _KEPT}, slot_numbers=tuple(int(slot) for slot in one["slots"]))
        for one in described
    )
