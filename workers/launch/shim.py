"""What ``dagrad worker`` puts into a worker's environment: who it is, whom it turns to first, where it is reached.

First contacts, in this order:

1. ``--dir``: a folder that all workers see; it is the run folder, its key included.
2. ``--seeds``, or ``--seed-port`` for rank 0's port: members by address.
3. Kubernetes: the DNS names of the job's first three pods, ports 29600 and 29601.
4. torchrun: the key-value store of its agent.
5. Slurm: the folder ``.dagrad/<job>.<step>`` where the job was submitted; mpirun: ``.dagrad/mpi-<job>`` here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dagrad_bus.errors import UsageError
from dagrad_bus.settings import PREFIX
from dagrad_bus.workers.launch import addresses
from dagrad_bus.workers.launch.engines import Found
from dagrad_bus.workers.launch.environment import count_cores, scrub

POD_INBOX, POD_BEAT = 29600, 29601
"""Ports of every pod: a DNS name leads to a host, not to a port."""
POD_SEEDS = 3
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user said; what is empty is found out."""

    directory: Path | None = None
    run: str = ""
    name: str = ""
    rank: int | None = None
    workers: int = 0
    members: str = ""
    seeds: str = ""
    key_file: str = ""
    seed_port: int = 0
    seed_host: str = ""
    service: str = ""
    advertise: str = ""
    interface: str = ""
    port_range: str = ""
    keep_ranks: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """A worker's environment, complete but for what the run folder holds."""

    env: dict[str, str]
    notes: tuple[str, ...]
    """For the user, each said once."""
    folder: Path | None
    """Run folder to make or to enter."""


def from_variables(wishes: Wishes, environ: Mapping[str, str]) -> Wishes:
    """Return the wishes with what ``DAGRAD_*`` variables say where no option does."""
    here = {"run": "RUN", "name": "NAME", "members": "MEMBERS", "seeds": "SEEDS", "key_file": "KEY_FILE",
            "advertise": "ADVERTISE", "port_range": "PORT_RANGE"}  # fmt: skip
    given: dict[str, Any] = {
        field: getattr(wishes, field) or environ.get(PREFIX + name, "") for field, name in here.items()
    }
    folder = environ.get(f"{PREFIX}RUN_DIR", "")
    return replace(wishes, **given, directory=wishes.directory or (Path(folder) if folder else None))


def by_hand(wishes: Wishes) -> Found | None:
    """Return who a worker is that no engine started, if its options say so."""
    if wishes.rank is None:
        return None
    if not wishes.workers > wishes.rank:
        raise UsageError(f"--rank {wishes.rank} needs --workers N, N above it")
    return Found(engine="worker", job="", rank=wishes.rank, size=wishes.workers)


def plan(found: Found | None, wishes: Wishes, environ: Mapping[str, str], *, fqdn: Callable[[], str]) -> Plan:
    """Decide what the worker is told.

    Args:
        found: by :func:`dagrad_bus.workers.launch.engines.detect` or :func:`by_hand`.
        wishes: the user's.
        environ: of this process.
        fqdn: returns this host's full name; asked in a pod only.

    Raises:
        UsageError: something that only the user can know is missing; the message says which option gives it.
    """
    base = dict(environ) if wishes.keep_ranks else scrub(environ)
    base.setdefault("PYTHONUNBUFFERED", "1")
    if found is not None and found.engine == "dagrad":
        return Plan(base, (), None)
    wishes = from_variables(wishes, environ)
    contacts = Contacts.choose(found, wishes, fqdn)
    if contacts.is_empty:
        what = "no engine that started it" if found is None else f"{found.engine} rank {found.rank}, but no others"
        alone = () if found is not None and found.size == 1 else (f"{what} and no first contacts: trains alone",)
        names = {key: value for key, value in base.items() if key not in {f"{PREFIX}MEMBERS", f"{PREFIX}ROSTER"}}
        return Plan(names, alone, None)
    ours = _identity(found, wishes, environ) | contacts.variables()
    told, note = _address(found, wishes, contacts)
    ours |= {name: value for name, value in told.items() if name != "BIND" or f"{PREFIX}BIND" not in environ}
    if wishes.port_range:
        ours["PORT_RANGE"] = wishes.port_range
    base.setdefault("OMP_NUM_THREADS", str(threads(found)))
    notes = [*contacts.notes(found, wishes), *([note] if note else [])]
    env = base | {PREFIX + name: value for name, value in ours.items()}
    return Plan(env, tuple(notes), contacts.folder)


def threads(found: Found | None) -> int:
    """Return the share of a worker in its host's cores, where the engine has not bound it to some already."""
    cores = count_cores()
    is_bound = cores < (os.cpu_count() or cores)
    return cores if is_bound or found is None else max(1, cores // max(1, found.local_size))


def _identity(found: Found | None, wishes: Wishes, environ: Mapping[str, str]) -> dict[str, str]:
    name = wishes.name or (found.name if found is not None else "")
    if not name:
        raise UsageError("who is this worker? no engine tells: give --name NAME, or --rank R --workers N")
    run = wishes.run or (found.job if found is not None else "")
    if not run:
        raise UsageError("which run is this? nothing tells: give --run ID, the same for all workers")
    ours = {"RUN": run, "NAME": name}
    if found is not None:
        ours |= {"SLOT": str(found.local_rank), "ATTEMPT": str(found.attempt)}
    if f"{PREFIX}ROSTER" not in environ:
        ours |= {"MEMBERS": members} if (members := _members(found, wishes)) else {}
    return ours


def _members(found: Found | None, wishes: Wishes) -> str:
    """Return the names of all workers; empty for one that joins by seeds."""
    if wishes.members:
        return wishes.members
    if found is None:
        return ""
    known = replace(found, size=wishes.workers or found.size).members
    if not known:
        raise UsageError(f"how many workers are there? {found.engine} does not tell: give --workers N")
    return known


@dataclass(frozen=True, slots=True, kw_only=True)
class Contacts:
    """By what a worker finds the others."""

    folder: Path | None = None
    seeds: tuple[str, ...] = ()
    """``NAME@HOST:PORT`` each, or one URL."""
    hosts: tuple[str, ...] = ()
    """Hosts by whose direction this one's address is found."""
    inbox_port: int = 0
    beat_port: int = 0
    key_file: str = ""
    is_first: bool = False
    """The others turn to this one, so it needs no contacts."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nobody to turn to."""
        return self.folder is None and not self.seeds and not self.is_first

    @classmethod
    def choose(cls, found: Found | None, wishes: Wishes, fqdn: Callable[[], str]) -> Contacts:
        """Choose them by what is known."""
        folder = wishes.directory
        if wishes.seeds or wishes.seed_port:
            own = _by_port(found, wishes) if wishes.seed_port else cls(seeds=tuple(wishes.seeds.split(",")))
        elif found is not None and found.engine == "pod":
            own = _by_pods(found, wishes, fqdn)
        elif folder is None and found is not None and found.size != 1:
            own = cls(seeds=(f"torchstore://{found.store}/dagrad/{found.job}/{found.attempt}",) if found.store else ())
            folder = Path(found.folder) if found.folder and not found.store else None
        else:
            own = cls()
        hosts = [seed.rpartition("@")[2].rpartition(":")[0] for seed in own.seeds if "://" not in seed]
        hosts += [wishes.seed_host] if own.is_first else []
        hosts += [found.first_host, found.reach] if found is not None else []
        return replace(own, folder=folder, key_file=wishes.key_file, hosts=tuple(host for host in hosts if host))

    def variables(self) -> dict[str, str]:
        """Return them as the worker is told, without what the folder holds."""
        ours = {"SEEDS": ",".join(self.seeds)} if self.seeds else {}
        ours |= {"INBOX_PORT": str(self.inbox_port)} if self.inbox_port else {}
        ours |= {"BEAT_PORT": str(self.beat_port)} if self.beat_port else {}
        ours |= {"RUN_DIR": str(self.folder.absolute())} if self.folder is not None else {}
        if key := self.key_file or (str(self.folder.absolute() / "key") if self.folder is not None else ""):
            ours["KEY_FILE"] = key
        return ours

    def notes(self, found: Found | None, wishes: Wishes) -> list[str]:
        """Return what the user should hear once: by the first worker, or by one without ranks."""
        is_open = not self.folder and not wishes.key_file and not any("://" in seed for seed in self.seeds)
        if is_open and (found is None or found.rank == 0):
            return ["no key: whoever reaches the workers' ports may join the run (--key-file)"]
        return []


def _by_port(found: Found | None, wishes: Wishes) -> Contacts:
    if found is None:
        raise UsageError("--seed-port is rank 0's port, and nothing tells the ranks: give --rank R --workers N")
    host = wishes.seed_host or ("127.0.0.1" if found.is_one_host else found.first_host)
    if found.rank == 0:
        return Contacts(inbox_port=wishes.seed_port, is_first=True)
    if not host:
        raise UsageError(f"on which host is rank 0? {found.engine} does not tell: give --seed-host HOST")
    first = replace(found, rank=0).name
    return Contacts(seeds=(f"{first}@{_bracketed(host)}:{wishes.seed_port}",))


def _by_pods(found: Found, wishes: Wishes, fqdn: Callable[[], str]) -> Contacts:
    """Return the first pods of the job by their DNS names: ``<job>-<index>.<service>``."""
    service = wishes.service or _service(fqdn(), found.first_host)
    job = found.first_host.removesuffix("-0")
    ports = Contacts(inbox_port=POD_INBOX, beat_port=POD_BEAT)
    if not service or not job:
        return Contacts()
    size = wishes.workers or found.size or POD_SEEDS
    others = [rank for rank in range(min(POD_SEEDS, size)) if rank != found.rank]
    seeds = tuple(f"{replace(found, rank=rank).name}@{job}-{rank}.{service}:{POD_INBOX}" for rank in others)
    return replace(ports, seeds=seeds, is_first=found.rank == 0)


def _service(fqdn: str, first_host: str) -> str:
    """Return the part of a pod's full name that names the service: ``train-3.SERVICE.default.svc.cluster.local``."""
    host, _, rest = fqdn.partition(".")
    return rest.partition(".")[0] if first_host and host.rpartition("-")[0] == first_host.removesuffix("-0") else ""


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _address(found: Found | None, wishes: Wishes, contacts: Contacts) -> tuple[dict[str, str], str]:
    """Return the address told to others and the one bound, and what the user should know of them."""
    note = ""
    if wishes.advertise:
        address = wishes.advertise
    elif wishes.interface:
        address = addresses.of_interface(wishes.interface)
    elif (found is not None and found.is_one_host and found.engine != "pod") or _all_here(contacts):
        address = addresses.LOOPBACK
    else:
        address = addresses.choose(host.strip("[]") for host in contacts.hosts) or ""
        if not address:
            address, note = (
                addresses.LOOPBACK,
                "no address of this host that others reach was found: --advertise gives one",
            )
    # A port that others know beforehand is reached under whatever address its host's name leads to.
    is_known = bool(contacts.inbox_port) and address != addresses.LOOPBACK
    return {"ADVERTISE": address, "BIND": "*" if is_known else addresses.to_bind(address)}, note


def _all_here(contacts: Contacts) -> bool:
    """Whether all first contacts are given by addresses of this host alone."""
    is_told = bool(contacts.seeds or contacts.is_first) and bool(contacts.hosts)
    return is_told and all(host.strip("[]") in LOOPBACK_HOSTS for host in contacts.hosts)
