"""The environment of the workers of one host, as its agent makes it.

The agent's own environment, what the launcher sends over it, then what only this host knows: where the run's files are,
and by which address its workers are reached.
"""

from __future__ import annotations

from collections.abc import Mapping

from dagrad_bus.workers.launch.addresses import to_bind
from dagrad_bus.workers.launch.environment import common_environment
from dagrad_bus.workers.launch.folder import RunFolder
from dagrad_bus.workers.launch.orders import Start
from dagrad_bus.workers.launch.quarters import BASE_NAME

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def equip(start: Start, folder: RunFolder, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what every worker of ``start`` gets, apart from its own name, slot and attempt.

    Args:
        start: the first order.
        folder: run folder on this host.
        environ: the agent's own.
    """
    slots = max(1, len(start.workers))
    env = common_environment({**environ, **start.env}, workers=slots, keep_ranks=start.keep_ranks)
    env.pop(BASE_NAME, None)  # the agent's; a worker refuses settings it does not know
    env |= choose_addresses(start, environ)
    return env | {
        "DAGRAD_RUN": start.run,
        "DAGRAD_RUN_DIR": str(folder.path),
        "DAGRAD_ROSTER": str(folder.roster),
        "DAGRAD_KEY_FILE": str(folder.key),
    }


def choose_addresses(start: Start, environ: Mapping[str, str]) -> dict[str, str]:
    """Return ``DAGRAD_ADVERTISE`` and ``DAGRAD_BIND``; empty where workers keep what the environment says.

    The address that the launcher has for the host comes first, then one that the environment names (set by hand, or by
    who started the agent), then the one by which ssh came here: the launcher has reached it, so others can. Workers
    listen at that address only, or everywhere if no interface has it (it is forwarded, or a name). Where they listen can
    be set by hand too; only a loopback address does not go with an address that the launcher has given.
    """
    given = {**environ, **start.env}
    came_by = environ.get("SSH_CONNECTION", "").split()  # client, its port, server, its port
    ssh = came_by[2] if len(came_by) == 4 and not start.folder else ""  # else it is the launcher's own session
    advertise = start.advertise or given.get("DAGRAD_ADVERTISE") or ssh
    if not advertise:
        return {}
    bind = given.get("DAGRAD_BIND", "")
    if not bind or (start.advertise and bind in _LOOPBACK):
        bind = to_bind(advertise)
    return {"DAGRAD_ADVERTISE": advertise, "DAGRAD_BIND": bind}
