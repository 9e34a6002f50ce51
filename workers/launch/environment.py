"""The environment of a worker: who it is, what it exchanges, and no trace of another launcher's ranks.

To Lightning, Accelerate and transformers a gossip worker is a single-process job: with ``WORLD_SIZE`` or its kin in
the environment they wait for a process group that never forms. The names below are therefore taken away; their
values stay readable as ``DAGRAD_LAUNCHER_<name>``.

To other hosts travels what a training script may depend on (:data:`PORTABLE`), what the user names, and nothing that
describes the machine on which it was typed. It goes through ssh's stdin, never on a command line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from dagrad_bus.errors import UsageError

RANK_NAMES = (
    # torchrun. torch 2.13: init_process_group and DeviceMesh read RANK, WORLD_SIZE, LOCAL_RANK, MASTER_*; Accelerate
    # 1.15 opens a group for any LOCAL_RANK; transformers 5.23 reads RANK, LOCAL_RANK, WORLD_SIZE; Lightning 2.6
    # detects LOCAL_RANK and TORCHELASTIC_RUN_ID, and reads GROUP_RANK, NODE_RANK.
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "NODE_RANK"),
    *("ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_*"),
    # The deepspeed and horovodrun launchers. DeepSpeed 0.19 takes LOCAL_SIZE for the number of CPU devices.
    *("LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE", "HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_*", "HOROVOD_CROSS_*"),
    # Open MPI. Accelerate and DeepSpeed read OMPI_COMM_WORLD_*. The rest is for Lightning, which calls MPI_Init where
    # mpi4py is installed: with PMIX_* gone and these left, MPI_Init of Open MPI 4.1 aborts the worker (measured);
    # JAX takes OMPI_MCA_orte_hnp_uri for a job of many processes.
    *("OMPI_COMM_WORLD_*", "OMPI_MCA_ess", "OMPI_MCA_ess_*", "OMPI_MCA_orte_*", "OMPI_MCA_pmix", "OMPI_UNIVERSE_SIZE"),
    *("PRTE_*", "PMIX_*"),
    # Hydra (MPICH, Intel MPI) and whoever else speaks PMI (Flux, Cray, srun --mpi=pmi2). Accelerate reads PMI_RANK,
    # PMI_SIZE, MPI_LOCALRANKID, MPI_LOCALNRANKS; oneCCL's examples MPI_RANKID.
    *("PMI_*", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", "MPI_RANKID", "MPI_NRANKS", "HYDI_CONTROL_FD"),
    # MVAPICH 1, 2, 3. Accelerate reads MV2_COMM_WORLD_*.
    *("MV2_COMM_WORLD_*", "MVP_COMM_WORLD_*", "MPIRUN_RANK", "MPIRUN_NPROCS", "MPIRUN_NTASKS"),
    # Slurm. Lightning detects SLURM_NTASKS and takes SLURM_PROCID for its rank; JAX wants SLURM_STEP_NODELIST.
    *("SLURM_NTASKS*", "SLURM_NPROCS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEPID"),
    *("SLURM_STEP_*", "SLURM_GTIDS"),
    # jsrun (LSF). Lightning detects JSM_NAMESPACE_SIZE and _LOCAL_RANK, and takes JSM_NAMESPACE_RANK for its rank.
    "JSM_NAMESPACE_*",
    # PALS and ALPS (Cray under PBS; Cobalt starts through Hydra or ALPS), Flux. DeepSpeed maps PALS_LOCAL_RANKID.
    *("PALS_RANKID", "PALS_LOCAL_*", "PALS_NODEID", "ALPS_APP_PE"),
    *("FLUX_TASK_RANK", "FLUX_TASK_LOCAL_ID", "FLUX_JOB_SIZE", "FLUX_JOB_NNODES"),
)
"""Names, with shell wildcards, by which other launchers number processes. Job ids and node lists stay."""

_OURS = (
    *("DAGRAD_RUN", "DAGRAD_NAME", "DAGRAD_ROSTER", "DAGRAD_RUN_DIR", "DAGRAD_KEY_FILE", "DAGRAD_SLOT"),
    *("DAGRAD_ATTEMPT", "DAGRAD_AGENT", "DAGRAD_MEMBERS", "DAGRAD_SEEDS", "DAGRAD_INBOX_PORT", "DAGRAD_BEAT_PORT"),
)
_NEVER = (*_OURS, "DAGRAD_LAUNCHER_*")
"""What only the launcher of a run says, with wildcards: it never travels."""

PORTABLE = (*("PYTHON*", "DAGRAD_*", "OMP_*", "MKL_*", "CUDA_VISIBLE_DEVICES", "NCCL_*", "HF_*", "WANDB_*", "TORCH_*"),)
"""Names, with shell wildcards, that travel to other hosts. LANG and LC_* do not: a host may lack the locale, and
without any Python speaks UTF-8 (PEP 538, 540)."""

_HERE = (
    *("PYTHONHOME", "PYTHONEXECUTABLE", "DAGRAD_ADVERTISE"),  # the launcher's own interpreter and address
    *("HOME", "USER", "LOGNAME", "SHELL", "MAIL", "HOSTNAME", "PWD", "OLDPWD", "SHLVL", "_", "TERM", "TTY"),
    *("SSH_*", "XDG_RUNTIME_DIR", "XDG_SESSION_*", "DBUS_*", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "BASH_FUNC_*"),
    *("TMUX*", "STY", "VIRTUAL_ENV*"),
)
"""Names, with shell wildcards, that describe the launcher's host and session: they travel only by name."""

_SECRET = re.compile("KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL", re.IGNORECASE)
_PLAIN = {"DAGRAD_KEY_FILE"}
"""Paths, whatever their names sound like."""
_LOGIN = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]*(?=@)")
"""``user:password`` of an URL."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VALUE = re.compile(
    r'"(?P<double>(?:[^"\\]|\\.)*)"[ \t]*(?:#.*)?|' + r"'(?P<single>[^']*)'[ \t]*(?:#.*)?|" + r"(?P<bare>(?![\"']).*)"
)


def scrub(environ: Mapping[str, str]) -> dict[str, str]:
    """Return a copy in which other launchers' rank names begin with ``DAGRAD_LAUNCHER_``."""
    ranks = {name for name in environ if _matches(name, RANK_NAMES)}
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
    """Return what all workers of one host share. Called on that host: it counts its cores.

    Args:
        environ: the environment of who starts them, what travelled laid over it.
        workers: workers on this host; they share its cores by ``OMP_NUM_THREADS`` where that is unset.
        keep_ranks: leave other launchers' names alone (for mpi4py and its like).
    """
    env = without_identity(environ if keep_ranks else scrub(environ))
    env.setdefault("OMP_NUM_THREADS", str(max(1, count_cores() // max(1, workers))))
    return env | {"PYTHONUNBUFFERED": "1"}


def portable(
    environ: Mapping[str, str], extra: Sequence[str] = (), files: Sequence[Path] = (), *, everything: bool = False
) -> dict[str, str]:
    """Return what travels to another host, later ones over earlier ones: own environment, files, single names.

    Args:
        environ: the launcher's environment.
        extra: ``NAME`` copies it, ``NAME=VALUE`` sets it.
        files: lines ``[export ]NAME=VALUE``.
        everything: all but what describes this host and session, not only :data:`PORTABLE`.

    Raises:
        UsageError: a name that is none, that is not set, or that dagrad sets itself; a file that cannot be read or
            understood, each fault as ``FILE:LINE: text``.
    """
    found = {
        name: value
        for name, value in environ.items()
        if (everything or _matches(name, PORTABLE)) and not _matches(name, (*_HERE, *_NEVER))
    }
    for path in files:
        found |= read_file(path)
    for word in extra:
        name, equals, value = word.partition("=")
        if fault := _refuse(name):
            raise UsageError(f"--env {name}: {fault}")
        if not equals and name not in environ:
            raise UsageError(f"--env {name}: not set here, say --env {name}=VALUE")
        found[name] = value if equals else environ[name]
    return found


def read_file(path: Path) -> dict[str, str]:
    r"""Return the names and values of an environment file.

    Lines are ``NAME=VALUE``, with or without ``export``; empty ones and those that begin with ``#`` are left out, and
    a comment after white space. Quotes are taken off; within double ones ``\"``, ``\\``, ``\$`` and ``\n`` stand for one
    character. Nothing is expanded.

    Raises:
        UsageError: all faults, each as ``FILE:LINE: text``.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8") from None
    values: dict[str, str] = {}
    faults: list[str] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, equals, rest = re.sub(r"^export\s+", "", text).partition("=")
        value = _VALUE.fullmatch(rest.strip())
        fault = _refuse(name) if equals else f"{name!r} is not NAME=VALUE"
        if not fault and (value is None or "\0" in line):
            fault = "a NUL character" if "\0" in line else "a quote that is not closed, or something behind it"
        if fault or value is None:
            faults.append(f"{path}:{number}: {fault}")
        else:
            values[name] = _unquote(value)
    if faults:
        raise UsageError("\n".join(faults))
    return values


def mask(environ: Mapping[str, str]) -> dict[str, str]:
    """Return a copy to be shown: ``***`` for the values of secrets, and for logins within URLs."""
    return {
        name: "***" if _SECRET.search(name) and name not in _PLAIN else _LOGIN.sub("***", value)
        for name, value in environ.items()
    }


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _refuse(name: str) -> str:
    """Return why a name cannot be given, or nothing."""
    if not _NAME.fullmatch(name):
        return f"{name!r} is no name of a variable"
    return "dagrad sets it for each worker itself" if _matches(name, _NEVER) else ""


def _unquote(value: re.Match[str]) -> str:
    if value["double"] is not None:
        return re.sub(r"\\([\"\\$`n])", lambda found: {"n": "\n"}.get(found[1], found[1]), value["double"])
    if value["single"] is not None:
        return value["single"]
    return re.sub(r"[ \t]+#.*", "", value["bare"])
