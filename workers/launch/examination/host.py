"""What one host tells of itself, with the standard library alone: a host lacking a package must be able to say so.

What cannot be read (another system than Linux, a closed /proc) is left out, and is then not judged.
"""

from __future__ import annotations

import fcntl
import math
import os
import platform
import resource
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from dagrad_bus.workers.launch.environment import RANK_NAMES

PACKAGES = (
    *("dagrad-bus", "torch", "numpy", "pyzmq", "msgpack", "google-crc32c", "structlog"),
    *("blosc2", "uvloop"),
)
"""Distributions whose versions are told."""
TEMPORARY = Path("/tmp")  # where an agent makes its private folder
_SIOCGIFADDR = 0x8915


def gather_facts(cwd: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the facts of this host as JSON takes them.

    Args:
        cwd: folder in which workers would run; whether it is there is told.
        environ: the environment that workers would inherit.
    """
    facts: dict[str, Any] = {
        "hostname": socket.gethostname(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "kernel": f"{platform.system()} {platform.release()}",
        "packages": {name: version_of(name) for name in PACKAGES},
        "ssh": environ.get("SSH_CONNECTION", "").split(),
        "cwd": {"path": cwd, "exists": Path(cwd).is_dir()},
        "ranks": sorted(name for name in environ if any(fnmatchcase(name, rank) for rank in RANK_NAMES)),
        "gpus": len(list(Path("/dev").glob("nvidia[0-9]*"))),
        "own_name": resolve(socket.gethostname()),
    }
    sources: dict[str, Callable[[], object]] = {
        "addresses": read_addresses,
        "mtu": _read_mtu,
        "fds": lambda: [_finite(limit) for limit in resource.getrlimit(resource.RLIMIT_NOFILE)],
        "memory": _read_memory,
        "cores": lambda: {"usable": len(os.sched_getaffinity(0)), "quota": _read_quota()},
        "temporary": _read_temporary,
        "somaxconn": lambda: int(_read("/proc/sys/net/core/somaxconn")),
        "ephemeral": lambda: [int(word) for word in _read("/proc/sys/net/ipv4/ip_local_port_range").split()],
    }
    for name, source in sources.items():
        with suppress(OSError, ValueError, AttributeError):
            facts[name] = source()
    return facts | read_wire()


def version_of(name: str) -> str | None:
    """Return the installed version of a distribution, without importing it."""
    try:
        return metadata.version(name)
    except (metadata.PackageNotFoundError, OSError):
        return None


def read_wire() -> dict[str, Any]:
    """Return the major version of the wire, or why it cannot be imported."""
    try:
        return {"wire": int(import_module("dagrad_bus.wire").MAJOR)}
    except Exception as error:  # noqa: BLE001  # whatever an import raises on a broken host is what we want to know
        return {"wire_error": f"{type(error).__name__}: {error}"[:200]}


def resolve(name: str) -> list[str]:
    """Return the addresses of ``name`` as this host resolves it; none where it does not."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def read_addresses() -> list[list[str]]:
    """Return (interface, address) pairs: the first IPv4 address of each interface, and all IPv6 ones."""
    found: list[list[str]] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            with suppress(OSError):
                answer = fcntl.ioctl(sock, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found.append([name, socket.inet_ntoa(answer[20:24])])
    with suppress(OSError):
        for line in _read("/proc/net/if_inet6").splitlines():
            words = line.split()
            found.append([words[5], socket.inet_ntop(socket.AF_INET6, bytes.fromhex(words[0]))])
    return found


def _read(path: str) -> str:
    return Path(path).read_text().strip()


def _finite(limit: int) -> int | None:
    return None if limit == resource.RLIM_INFINITY else limit


def _read_mtu() -> dict[str, int]:
    return {path.parent.name: int(path.read_text()) for path in Path("/sys/class/net").glob("*/mtu")}


def _read_memory() -> dict[str, int]:
    """Return total and available bytes; a control group's limit counts where it is lower."""
    lines = (line.split() for line in _read("/proc/meminfo").splitlines())
    sizes = {words[0].rstrip(":"): 1024 * int(words[1]) for words in lines}
    total, available = sizes["MemTotal"], sizes["MemAvailable"]
    for limit_file, used_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):
            limit = int(_read(limit_file))
            total, available = min(total, limit), min(available, max(0, limit - int(_read(used_file))))
    return {"total": total, "available": available}


def _read_quota() -> float | None:
    """Return how many cores' time a control group allows; None: no limit."""
    with suppress(OSError, ValueError):
        quota, period = _read("/sys/fs/cgroup/cpu.max").split()
        return int(quota) / int(period)
    with suppress(OSError, ValueError):
        given = int(_read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))
        return given / int(_read("/sys/fs/cgroup/cpu/cpu.cfs_period_us")) if given > 0 else None
    return None


def _read_temporary() -> dict[str, Any]:
    room = os.statvfs(TEMPORARY)
    free = math.floor(room.f_bavail * room.f_frsize)
    return {"path": str(TEMPORARY), "free": free, "writable": os.access(TEMPORARY, os.W_OK | os.X_OK)}


def list_missing(packages: Mapping[str, str | None], wanted: Sequence[str]) -> list[str]:
    """Return those of ``wanted`` that are not installed."""
    return [name for name in wanted if packages.get(name) is None]
