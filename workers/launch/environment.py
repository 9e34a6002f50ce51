"""The environment of a worker: who it is, what it exchanges, and no trace of another launcher's ranks.

To Lightning, Accelerate and transformers a gossip worker is a single-process job: with ``WORLD_SIZE`` or its kin in
the environment they wait for a process group that never forms. The names below are therefore taken away; their
values stay readable as ``DAGRAD_LAUNCHER_<name>``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase

RANK_NAMES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("TORCHELASTIC_*", "OMPI_COMM_WORLD_*", "PMI_*", "PMIX_*", "MV2_COMM_WORLD_*"),
    *("SLURM_NTASKS*", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_*"),
)
"""Names, with shell wildcards, by which other launchers number processes."""

_OURS = ("DAGRAD_RUN", "DAGRAD_NAME", "DAGRAD_ROSTER", "DAGRAD_RUN_DIR", "DAGRAD_KEY_FILE", "DAGRAD_SLOT")


def scrub(environ: Mapping[str, str]) -> dict[str, str]:
    """Return a copy in which other launchers' rank names begin with ``DAGRAD_LAUNCHER_``."""
    ranks = {name for name in environ if any(fnmatchcase(name, pattern) for pattern in RANK_NAMES)}
    return {f"DAGRAD_LAUNCHER_{name}" if name in ranks else name: value for name, value in environ.items()}


def without_identity(environ: Mapping[str, str]) -> dict[str, str]:
    """Return a copy without the names that say which run and worker this is: a run inside a run is a new one."""
    return {name: value for name, value in environ.items() if name not in _OURS}


def count_cores() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def common_environment(environ: Mapping[str, str], *, workers: int, keep_ranks: bool = False) -> dict[str, str]:
    """Return what all workers of one host share, made from the launcher's own environment.

    Args:
        environ: the launcher's environment.
        workers: workers on this host; they share its cores by ``OMP_NUM_THREADS`` where that is unset.
        keep_ranks: leave other launchers' names alone (for mpi4py and its like).
    """
    env = without_identity(environ if keep_ranks else scrub(environ))
    env.setdefault("OMP_NUM_THREADS", str(max(1, count_cores() // workers)))
    return env | {"PYTHONUNBUFFERED": "1"}
