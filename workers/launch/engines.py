"""Which engine started this process, and who it is: read from the environment, innermost launcher first.

========  ==============================================  ===========================================================
engine    detected by                                     who am I
========  ==============================================  ===========================================================
dagrad    DAGRAD_RUN and DAGRAD_NAME                      said already
torchrun  TORCHELASTIC_RUN_ID, RANK                       RANK, WORLD_SIZE, LOCAL_RANK, TORCHELASTIC_RESTART_COUNT
mpi       OMPI_COMM_WORLD_RANK, or PMIX_RANK              OMPI_COMM_WORLD_*; with PMIX_RANK alone no size is told
slurm     SLURM_STEP_ID and SLURM_PROCID                  SLURM_STEP_NUM_TASKS, SLURM_LOCALID, SLURM_RESTART_COUNT
pod       JOB_COMPLETION_INDEX (Kubernetes Indexed Job)   the index; no size is told
========  ==============================================  ===========================================================

Worker names are ``<engine>.<rank>``, so that the list of members follows from the size. Nothing here looks at the
network or the disk.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from dagrad_bus.errors import UsageError

Engine = Literal["dagrad", "torchrun", "mpi", "slurm", "pod", "worker"]
"""``worker``: none of them, its rank was given by hand."""
MOST_NODES = 65536
_OUTSIDE_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
_TASKS = re.compile(r"(\d+)(?:\(x(\d+)\))?")
_HOST = re.compile(r"(?:[^,\[\]]|\[[0-9,-]+\])+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What an engine says about the process it started."""

    engine: Engine
    job: str
    """Of this launch, the same for all its processes; empty if the engine has no name for it."""
    rank: int
    size: int = 0
    """Processes of the launch; 0: not told."""
    local_rank: int = 0
    local_size: int = 0
    """Processes of the launch on this host; 0: not told."""
    attempt: int = 0
    """How often the launch was started again."""
    folder: str = ""
    """A folder that all its processes see, as far as the engine tells one; relative to the working directory."""
    store: str = ""
    """``HOST:PORT`` of the key-value store that the engine keeps."""
    first_host: str = ""
    """Host of rank 0."""
    reach: str = ""
    """Another host of the launch, whose direction shows this host's address."""

    @property
    def name(self) -> str:
        """The worker's name."""
        return f"{self.engine}.{self.rank}"

    @property
    def members(self) -> str:
        """Names of all workers as a range, ``slurm.0..7``; empty if the size is not told."""
        return f"{self.engine}.0..{self.size - 1}" if self.size else ""

    @property
    def is_one_host(self) -> bool:
        """Whether all processes are known to be on this host."""
        return 0 < self.size == self.local_size


def detect(environ: Mapping[str, str]) -> Found | None:
    """Find out which engine started this process; None: none that is known here.

    Raises:
        UsageError: a name that has to hold a number does not.
    """
    for look in (_dagrad, _torchrun, _openmpi, _pmix, _slurm, _pod):
        if (found := look(environ)) is not None:
            return found
    return None


def _number(environ: Mapping[str, str], *names: str, default: int = 0) -> int:
    """Return the first of these that is set, as a number."""
    for name in names:
        if text := environ.get(name):
            if not (text.isascii() and text.isdigit()):
                raise UsageError(f"{name} is {text!r}: needs a whole number")
            return int(text)
    return default


def _job(text: str) -> str:
    """Return the text without what cannot stand in a file name."""
    return _OUTSIDE_NAMES.sub("-", text).strip("-")


def _dagrad(environ: Mapping[str, str]) -> Found | None:
    if not (environ.get("DAGRAD_RUN") and environ.get("DAGRAD_NAME")):
        return None
    rank = environ["DAGRAD_NAME"].rpartition(".")[2]
    return Found(
        engine="dagrad",
        job=environ["DAGRAD_RUN"],
        rank=int(rank) if rank.isascii() and rank.isdigit() else 0,
        local_rank=_number(environ, "DAGRAD_SLOT"),
        attempt=_number(environ, "DAGRAD_ATTEMPT"),
    )


def _torchrun(environ: Mapping[str, str]) -> Found | None:
    if "TORCHELASTIC_RUN_ID" not in environ or not environ.get("RANK"):
        return None
    host, port = environ.get("MASTER_ADDR", ""), environ.get("MASTER_PORT", "")
    run = environ["TORCHELASTIC_RUN_ID"]
    # Without --rdzv-id every launch is called "none".
    named = run if run not in {"", "none"} else f"{host}-{port}"
    return Found(
        engine="torchrun",
        job=f"torchrun-{_job(named)}",
        rank=_number(environ, "RANK"),
        size=_number(environ, "WORLD_SIZE"),
        local_rank=_number(environ, "LOCAL_RANK"),
        local_size=_number(environ, "LOCAL_WORLD_SIZE"),
        attempt=_number(environ, "TORCHELASTIC_RESTART_COUNT"),
        store=f"{host}:{port}" if host and port and environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else "",
        first_host=host,
        reach=host,
    )


def _openmpi(environ: Mapping[str, str]) -> Found | None:
    if not environ.get("OMPI_COMM_WORLD_RANK"):
        return None
    job = _mpi_job(environ)
    return Found(
        engine="mpi",
        job=job,
        rank=_number(environ, "OMPI_COMM_WORLD_RANK"),
        size=_number(environ, "OMPI_COMM_WORLD_SIZE"),
        local_rank=_number(environ, "OMPI_COMM_WORLD_LOCAL_RANK"),
        local_size=_number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE"),
        attempt=_number(environ, "OMPI_MCA_orte_num_restarts"),
        folder=f".dagrad/{job}" if job else "",
        reach=_launcher_of(environ),
    )


def _pmix(environ: Mapping[str, str]) -> Found | None:
    """Take a PMIx launcher other than Open MPI's; Slurm's own has its own names, and a size."""
    if not environ.get("PMIX_RANK") or ("SLURM_PROCID" in environ and _is_slurm(environ.get("PMIX_NAMESPACE", ""))):
        return None
    job = _mpi_job(environ)
    return Found(engine="mpi", job=job, rank=_number(environ, "PMIX_RANK"), folder=f".dagrad/{job}" if job else "")


def _is_slurm(namespace: str) -> bool:
    return not namespace or namespace.startswith("slurm.")


def _mpi_job(environ: Mapping[str, str]) -> str:
    """Return a name of this mpirun: Open MPI makes its number of a process id, which comes back after a while."""
    number = environ.get("PMIX_NAMESPACE") or environ.get("OMPI_MCA_ess_base_jobid", "")
    drawn = environ.get("OMPI_MCA_orte_precondition_transports", "")
    if not number:
        return ""
    mark = f"-{blake2b(drawn.encode(), digest_size=3).hexdigest()}" if drawn else ""
    return f"mpi-{_job(number)}{mark}"


def _launcher_of(environ: Mapping[str, str]) -> str:
    """Return the first address of mpirun itself: ``2413.0;tcp://10.0.0.1,192.168.0.1:43567``."""
    uri = environ.get("OMPI_MCA_orte_hnp_uri", "").partition("tcp://")[2]
    return re.split("[,:;]", uri, maxsplit=1)[0]


def _slurm(environ: Mapping[str, str]) -> Found | None:
    if not (environ.get("SLURM_STEP_ID") and environ.get("SLURM_PROCID")):
        return None
    job, step = environ.get("SLURM_JOB_ID") or environ.get("SLURM_JOBID", "0"), environ["SLURM_STEP_ID"]
    size = _number(environ, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    nodes = _nodes(environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", ""))
    on_nodes = _tasks(environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE", ""))
    node = _number(environ, "SLURM_NODEID")
    submitted = environ.get("SLURM_SUBMIT_DIR", ".")
    return Found(
        engine="slurm",
        job=f"slurm-{_job(job)}.{_job(step)}",
        rank=_number(environ, "SLURM_PROCID"),
        size=size,
        local_rank=_number(environ, "SLURM_LOCALID"),
        local_size=on_nodes[node] if node < len(on_nodes) else size if len(nodes) == 1 else 0,
        attempt=_number(environ, "SLURM_RESTART_COUNT"),
        folder=f"{submitted}/.dagrad/{_job(job)}.{_job(step)}",
        first_host=nodes[0] if nodes else "",
        reach=environ.get("SLURM_LAUNCH_NODE_IPADDR", ""),
    )


def _tasks(text: str) -> list[int]:
    """Return the tasks of each node from Slurm's short form, ``4(x2),3``; empty if it is another."""
    found: list[int] = []
    for part in text.split(",") if text else ():
        match = _TASKS.fullmatch(part)
        if match is None or len(found) > MOST_NODES:
            return []
        found += [int(match[1])] * min(int(match[2] or 1), MOST_NODES)
    return found


def expand(text: str) -> tuple[str, ...]:
    """Return the hosts of a Slurm node list in order: ``gpu[01-03,7],login`` (``scontrol show hostnames``).

    Raises:
        UsageError: not such a list, or one of more than 65 536 hosts.
    """
    hosts: list[str] = []
    words = _HOST.findall(text)
    if ",".join(words) != text:
        raise UsageError(f"{text!r} is no node list: needs host,host[1-3,7],...")
    for word in words:
        parts = [_numbers(part, text) if at % 2 else [part] for at, part in enumerate(re.split(r"\[(.*?)\]", word))]
        if math.prod(map(len, parts)) + len(hosts) > MOST_NODES:
            raise UsageError(f"{text!r} is no node list: over {MOST_NODES} hosts")
        hosts += ["".join(chosen) for chosen in itertools.product(*parts)]
    return tuple(hosts)


def _numbers(inside: str, text: str) -> list[str]:
    """Return the numbers of ``01-03,7`` as they are written."""
    numbers: list[str] = []
    for part in inside.split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (first.isdigit() and last.isdigit() and 0 <= int(last) - int(first) < MOST_NODES):
            raise UsageError(f"{text!r} is no node list: {part!r} is no range of numbers")
        numbers += [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    return numbers


def _nodes(text: str) -> tuple[str, ...]:
    """Return the hosts of a node list, or none where it is written in a way unknown here."""
    try:
        return expand(text)
    except UsageError:
        return ()


def _pod(environ: Mapping[str, str]) -> Found | None:
    if not environ.get("JOB_COMPLETION_INDEX"):
        return None
    index = _number(environ, "JOB_COMPLETION_INDEX")
    host = environ.get("HOSTNAME", "").partition(".")[0]
    job = host.removesuffix(f"-{index}") if host.endswith(f"-{index}") else ""
    return Found(
        engine="pod",
        job=_job(job),
        rank=index,
        attempt=_number(environ, "DAGRAD_ATTEMPT"),
        local_size=1,
        first_host=f"{job}-0" if job else "",
    )
