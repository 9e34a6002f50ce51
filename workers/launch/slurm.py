"""``dagrad run --on slurm``: the call of srun, and the truth about how its tasks have ended.

srun's exit code does not tell it. Measured with Slurm 22.05: tasks that could not be launched at all, and a step that
was cancelled because a node had died, both gave 0. So each line that srun prints about a task is read, and where none
was printed the worker's journal speaks. Nothing here runs a program.

==============================  ====================================================================================
``--no-kill``                   the death of a node leaves the others at work
``--kill-on-bad-exit=0``        so does a task that fails
``--wait=0``                    and a task that ends early
``--output=DIR/logs/...%t``     the tasks' own files: a launcher that reads slowly holds nobody up
``--input=none``                the terminal is the launcher's
==============================  ====================================================================================
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dagrad_bus.errors import UsageError
from dagrad_bus.workers.launch.engines import expand

SURVIVING = ("--no-kill", "--kill-on-bad-exit=0", "--wait=0")
_OURS = {
    **dict.fromkeys(("-n", "--ntasks"), "give -n to dagrad run"),
    **dict.fromkeys(("-o", "--output", "-e", "--error", "-l", "--label"), "output goes to the run folder"),
    **dict.fromkeys(("-J", "--job-name"), "the step is found by its name"),
}
"""Options of srun that are not passed on, and why."""
_ENDED = re.compile(r"srun: error: (\S+): tasks? ([\d,-]+): (?:Exited with exit code (\d+)|(.+?))(?: \(core dumped\))?")
_NOT_LAUNCHED = re.compile(r"srun: error: [Tt]asks? ([\d,-]+) launch failed: (.+)")
_NODE = re.compile(r"srun: error: Node failure on (\S+)")
_CANCELLED = re.compile(r"srun: (?:Job step aborted|forcing job termination)|.*\*\*\* (?:STEP|JOB) \S+ .*CANCELLED")
"""``srun: Force Terminated StepId=`` is none of them: it comes at the end wherever a task was killed."""
_SIGNALS = {signal.strsignal(number): number for number in signal.valid_signals()}


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """How a task ended."""

    rank: int
    code: int | None = None
    """Exit code; None if a signal ended it, or nobody knows."""
    signal: int | None = None
    why: str = ""
    """What srun said of a task that was not launched, or was lost."""

    @property
    def status(self) -> int:
        """The code as a shell gives it; a task that was lost counts as killed, one not launched as 126."""
        if self.signal is not None:
            return 128 + self.signal
        return self.code if self.code is not None else 128 + signal.SIGKILL


def worker_name(rank: int) -> str:
    """Return the name of a task's worker, and of its files."""
    return f"slurm.{rank}"


def step_name(run: str) -> str:
    """Return the name under which Slurm lists the step of a run."""
    return f"dagrad-{run}"


def srun_command(
    count: int, command: Sequence[str], *, folder: Path, run: str, arguments: Sequence[str] = (),
    options: Sequence[str] = (),
) -> list[str]:  # fmt: skip
    """Return the command line that starts ``count`` workers by srun.

    Args:
        count: tasks.
        command: the user's, as it was given.
        folder: run folder, on a file system that all nodes share; its ``logs`` exists.
        run: id of the run.
        arguments: options of srun from the user, one word each; they come last and so win over ours.
        options: of ``dagrad worker``.

    Raises:
        UsageError: an argument is no option, or one that dagrad sets itself.
    """
    for argument in arguments:
        name = argument.partition("=")[0] if argument.startswith("--") else argument[:2]
        if not argument.startswith("-") or argument == "--":
            raise UsageError(f"--srun-arg {argument!r}: an option in one word is needed, as in --srun-arg=--mem=4G")
        if name in _OURS:
            raise UsageError(f"--srun-arg {argument!r}: {_OURS[name]}")
    logs = str(folder.absolute() / "logs").replace("%", "%%")
    return [
        *("srun", *SURVIVING, f"--ntasks={count}", f"--job-name={step_name(run)}", "--input=none"),
        *(f"--output={logs}/{worker_name(0).removesuffix('0')}%t.log", *arguments),
        *(sys.executable, "-m", "dagrad_bus.tools.cli", "worker", "--dir", str(folder.absolute()), *options, "--"),
        *command,
    ]


def parse_srun(line: str) -> list[TaskEnd]:
    """Return how tasks have ended, as one line of srun's stderr says; empty if it says nothing of that."""
    text = line.rstrip()
    if match := _ENDED.fullmatch(text):
        _, ranks, code, words = match.groups()
        if code is not None:
            return [TaskEnd(rank, code=int(code)) for rank in _ranks(ranks)]
        number = _SIGNALS.get(words)
        return [TaskEnd(rank, signal=number, why="" if number else words) for rank in _ranks(ranks)]
    if match := _NOT_LAUNCHED.fullmatch(text):
        return [TaskEnd(rank, code=126, why=f"not launched: {match[2]}") for rank in _ranks(match[1])]
    return []


def _ranks(text: str) -> list[int]:
    """Return the numbers of ``0-1,5``; none of what is no such list."""
    try:
        return [int(name.removeprefix("t")) for name in expand(f"t[{text}]")]
    except UsageError:
        return []


@dataclass(slots=True)
class SrunExits:
    """What srun has said so far."""

    ends: dict[int, TaskEnd] = field(default_factory=dict[int, TaskEnd])
    """By rank, of tasks that failed; srun is silent about the others."""
    lost_nodes: list[str] = field(default_factory=list[str])
    cancelled: bool = False
    """Whether Slurm has ended the step as a whole."""

    def take(self, line: str) -> list[TaskEnd]:
        """Take a line of srun's stderr; return what is new in it."""
        if (match := _NODE.fullmatch(line.rstrip())) and match[1] not in self.lost_nodes:
            self.lost_nodes.append(match[1])
        self.cancelled = self.cancelled or _CANCELLED.match(line) is not None
        new = [end for end in parse_srun(line) if end.rank not in self.ends]
        self.ends |= {end.rank: end for end in new}
        return new

    def judge(self, count: int, status: int, finished: Collection[int]) -> list[TaskEnd]:
        """Return how all tasks have ended, by rank, once srun itself has.

        Args:
            count: tasks.
            status: srun's exit code, negative for a signal.
            finished: ranks whose journals have an end.
        """
        return [self._judge(rank, status, rank in finished) for rank in range(count)]

    def _judge(self, rank: int, status: int, is_finished: bool) -> TaskEnd:
        if rank in self.ends:
            return self.ends[rank]
        if is_finished:
            return TaskEnd(rank, code=0)
        if self.lost_nodes:
            return TaskEnd(rank, why=f"lost; Slurm says: node failure on {', '.join(self.lost_nodes)}")
        if status < 0 or self.cancelled:
            return TaskEnd(rank, why="lost: Slurm ended the step")
        if status and not self.ends:  # srun itself has failed: no allocation, a wrong option
            return TaskEnd(rank, code=status, why="srun failed")
        return TaskEnd(rank, code=0)


# Stopping ----------------------------------------------------------------------------------------------------------
# SIGTERM to srun has the tasks killed at once, and no handler of theirs runs; scancel delivers the signal itself.


def steps_command() -> list[str]:
    """Return the command that lists the user's steps."""
    return ["squeue", "--noheader", "--steps", "--me", "--format=%i %j"]


def find_step(listing: str, run: str) -> str | None:
    """Return the id of a run's step, ``JOB.STEP``, out of what :func:`steps_command` prints; None: it is not there."""
    for line in listing.splitlines():
        step, _, name = line.strip().partition(" ")
        if name.strip() == step_name(run):
            return step
    return None


def signal_command(step: str, number: int) -> list[str]:
    """Return the command that sends a signal to every task of a step."""
    return ["scancel", f"--signal={signal.Signals(number).name.removeprefix('SIG')}", step]
