"""``dagrad run --on slurm``: srun starts the workers; their files on the shared file system are what is shown."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import click

from dagrad_bus.errors import StartError
from dagrad_bus.tools.finish import report_end
from dagrad_bus.tools.live import watching
from dagrad_bus.tools.tables import make_console
from dagrad_bus.workers.launch.folder import RunFolder
from dagrad_bus.workers.launch.outcome import Exit, Outcome, Watcher
from dagrad_bus.workers.launch.screen import Screen
from dagrad_bus.workers.launch.slurm import (
    SrunExits,
    find_step,
    signal_command,
    srun_command,
    steps_command,
    worker_name,
)

_POLL = 0.1
"""Seconds between two looks at the workers' files."""
_PATIENCE = 10.0
"""Seconds that squeue and scancel may take."""
_MOST_SIGNALS = 16
_LONGEST = 1 << 20
"""Bytes of one line of srun."""
_PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2)
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_on_slurm(
    words: Sequence[str], folder: RunFolder, run_id: str, env: Mapping[str, str], options: Mapping[str, Any]
) -> int:
    """Run one worker a task of srun, and return the exit code of the run.

    Args:
        words: the user's command, as it was given.
        folder: of the run, on a file system that all nodes share.
        run_id: of the run.
        env: environment of srun, which hands all of it on.
        options: of the command line.

    Raises:
        UsageError: an argument for srun that it cannot have.
        StartError: there is no srun, or it has started nothing.
    """
    count = len(folder.read_run()["workers"])
    kept = ["--keep-rank-env"] if options["keep_rank_env"] else []
    command = srun_command(
        count, words, folder=folder.path, run=run_id, arguments=options["srun_args"], options=["--run", run_id, *kept]
    )
    click.echo(f"dagrad: {count} workers by srun, run folder {folder.path}", err=True)
    names = [worker_name(rank) for rank in range(count)]
    with watching(options["progress"], make_console(to_stderr=options["as_json"]), names) as watcher:
        step = SlurmStep(command, folder, run_id, env, watcher, grace=options["grace"])
        outcome = asyncio.run(step.run(names, options["min_success"]))
    return report_end(folder, outcome, options)


class SlurmStep:
    """One call of srun while it lasts."""

    def __init__(
        self, command: Sequence[str], folder: RunFolder, run_id: str, env: Mapping[str, str], watcher: Watcher,
        *, grace: float,
    ) -> None:  # fmt: skip
        self._command = command
        self._run_id = run_id
        self._env = env
        self._grace = grace
        self._screen = Screen(folder, watcher, split=False)
        self._exits = SrunExits()
        self._signals: asyncio.Queue[signal.Signals] = asyncio.Queue(_MOST_SIGNALS)
        self._outcome = Outcome([])
        self._last = ""
        """What srun said last."""

    async def run(self, names: Sequence[str], min_success: int | None) -> Outcome:
        """Call srun, show what workers write, and return how they ended.

        Raises:
            StartError: there is no srun.
        """
        self._outcome = Outcome([self._screen.add(name) for name in names], min_success=min_success)
        loop = asyncio.get_running_loop()
        handled = (*_PASSED_ON, *_STOPPING)
        for number in handled:
            loop.add_signal_handler(number, self._take_signal, number)
        try:
            async with asyncio.TaskGroup() as group:
                process = await self._start()
                beside = [group.create_task(job) for job in (self._show(), self._obey(process))]
                await self._read(process)
                status = await process.wait()
                for task in beside:
                    task.cancel()
        finally:
            for number in handled:
                loop.remove_signal_handler(number)
        self._screen.look(final=True)
        if status > 0 and not self._exits.ends and self._last and not self._screen.has_seen_anything():
            raise StartError(f"srun has started nothing: {self._last}")
        self._judge(names, status)
        return self._outcome

    async def _start(self) -> asyncio.subprocess.Process:
        try:
            return await asyncio.create_subprocess_exec(
                *self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                limit=_LONGEST,
                env=dict(self._env),
                start_new_session=True,  # a Ctrl-C of the terminal reaches the launcher only
            )
        except OSError as error:
            raise StartError(f"cannot run srun: {error.strerror}: is this a host of a Slurm cluster?") from None

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Take what srun says of its tasks."""
        assert process.stderr is not None, "asked for"
        while line := await process.stderr.readline():
            text = line.decode(errors="replace").rstrip()
            self._exits.take(text)
            self._last = text.removeprefix("srun: ") or self._last
            self._screen.watcher.show_note(text)

    async def _show(self) -> None:
        while True:
            self._screen.look(final=False)
            await asyncio.sleep(_POLL)

    # Signals: one to srun itself would have the tasks killed, and none of their handlers would run ----------------

    def _take_signal(self, number: signal.Signals) -> None:
        with suppress(asyncio.QueueFull):  # as many wait already, while the controller does not answer
            self._signals.put_nowait(number)

    async def _obey(self, process: asyncio.subprocess.Process) -> None:
        while True:
            number = await self._signals.get()
            if number in _PASSED_ON:
                await self._signal(number, process)
            elif self._outcome.stopped_by is None:
                self._outcome.stopped_by = signal.SIGTERM if number == signal.SIGHUP else number
                self._screen.watcher.show_note(f"{number.name}: stopping all workers; once more kills them")
                await self._signal(signal.SIGTERM, process)
                asyncio.get_running_loop().call_later(self._grace, self._take_signal, number)
            else:
                self._outcome.killed = True
                await self._signal(signal.SIGKILL, process)

    async def _signal(self, number: signal.Signals, process: asyncio.subprocess.Process) -> None:
        """Signal all tasks; where their step is not to be found, srun itself is interrupted."""
        step = find_step(await self._call(steps_command()), self._run_id)
        if step is not None:
            await self._call(signal_command(step, number))
        elif number not in _PASSED_ON and process.returncode is None:
            process.kill() if number == signal.SIGKILL else process.terminate()

    async def _call(self, words: Sequence[str]) -> str:
        process = await asyncio.create_subprocess_exec(
            *words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=dict(self._env)
        )
        try:
            async with asyncio.timeout(_PATIENCE):
                out, _ = await process.communicate()
        except TimeoutError:  # the controller is away; the next signal tries again
            process.kill()
            await process.wait()
            self._screen.watcher.show_note(f"{words[0]} did not answer within {_PATIENCE:g} s")
            return ""
        return out.decode(errors="replace")

    def _judge(self, names: Sequence[str], status: int) -> None:
        """Write down how each worker ended."""
        workers = self._outcome.workers
        finished = {rank for rank, worker in enumerate(workers) if worker.record.ended}
        for name, worker, end in zip(names, workers, self._exits.judge(len(names), status, finished), strict=True):
            ended = end.signal or (signal.SIGKILL if end.code is None else None)
            lost = end.signal is None and end.code is None
            pid = int(worker.record.start.get("pid", 0))
            worker.exit = Exit(name, pid, None if ended else end.code, ended, time.time(), lost=lost)
            if worker.exit.status and self._outcome.stopped_by is None:
                self._outcome.failures.append(worker.exit)
                self._screen.watcher.show_note(f"{name} failed: {end.why or worker.exit.text}")
