"""``dagrad logs``: what the workers of a run printed, and what they print now."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from dagrad_bus.errors import UsageError
from dagrad_bus.rendezvous import look_up, names_in
from dagrad_bus.tools.visiting import CONTEXT, find_folder, split_words, wants_colour, without_colour
from dagrad_bus.workers.launch.folder import RunFolder
from dagrad_bus.workers.launch.journal import LONGEST_LINE, Tail

POLL = 0.2
"""Seconds between two looks at the files."""
QUIET = 5.0
"""Seconds without a line after which it is asked whether anybody is left to print one."""
SUFFIXES = {".log": "stdout", ".err": "stderr"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of one worker."""

    worker: str
    stream: str
    """``stdout`` (with stderr, where they were not kept apart) or ``stderr``."""
    text: str


@dataclass(slots=True)
class Source:
    """The files of a run, read as they grow; new ones are found."""

    folder: RunFolder
    names: tuple[str, ...] = ()
    """Empty: all workers."""
    streams: tuple[str, ...] = ("stdout", "stderr")
    pattern: re.Pattern[str] | None = None
    _tails: dict[Path, Tail] = field(default_factory=dict[Path, Tail])

    def lines(self, *, final: bool) -> Iterator[Line]:
        """Yield what is new, worker by worker; with ``final`` unfinished lines too."""
        for worker, stream, path in self.files():
            tail = self._tails.setdefault(path, Tail(path, longest=LONGEST_LINE))
            for raw in tail.read_lines(final=final):
                text = raw.decode(errors="replace").rstrip("\r")
                if self.pattern is None or self.pattern.search(text):
                    yield Line(worker, stream, text)

    def files(self) -> list[tuple[str, str, Path]]:
        """Return worker, stream and path of the files there are, in the order of the workers' names."""
        from dagrad_bus.tools.sightings import natural

        workers = self.names or self.workers()
        found: list[tuple[str, str, Path]] = []
        for worker in sorted(workers, key=natural):
            for suffix, stream in SUFFIXES.items():
                path = self.folder.path / "logs" / f"{worker}{suffix}"
                if stream in self.streams and path.is_file():
                    found.append((worker, stream, path))
        return found

    def workers(self) -> list[str]:
        """Return the names of all workers launched, and of those that published an address or joined."""
        return list(dict.fromkeys([*map(str, self.folder.read_run()["workers"]), *names_in(self.folder.path)]))


@click.command(context_settings=CONTEXT, short_help="Show what workers printed.")
@click.argument("words", nargs=-1, metavar="[DIR] [NAME]...")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends, or Ctrl-C.")
@click.option("-n", "--tail", type=click.IntRange(0), metavar="N", help="Only the last N lines of each worker.  [all]")
@click.option("--stderr-only", is_flag=True, help="Only stderr, where the run kept it apart.")
@click.option("--grep", metavar="RE", help="Only lines in which this regular expression is found; (?i) ignores case.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--no-color", is_flag=True, help="No colours; NO_COLOR in the environment does the same.")
def logs(
    words: tuple[str, ...], follow: bool, tail: int | None, stderr_only: bool, grep: str | None, as_json: bool,
    no_color: bool,
) -> None:  # fmt: skip
    """Show what the workers NAME (or all) of the run in DIR printed, from the run's folder; live or over.

    Each line begins with its worker, as in dagrad run. Lines carry no times: what was printed before is shown worker
    by worker, what comes with --follow in the order in which it is found, within 0.2 s.

    \b
    dagrad logs --tail 5                              # of the newest run below runs/
    dagrad logs runs/a local.2 -f
    dagrad logs runs/a --grep 'Traceback|Error' --stderr-only
    dagrad logs runs/a --json | jq -r 'select(.worker == "local.0") | .text'

    Exit code: 0, also where nothing was printed and after Ctrl-C; 2 no such run or worker.
    """  # noqa: D301  # the backspace keeps click from filling a paragraph
    without_colour(no_color)
    directory, names = split_words(words)
    source = Source(
        find_folder(directory),
        names,
        ("stderr",) if stderr_only else ("stdout", "stderr"),
        _compile(grep) if grep is not None else None,
    )
    if unknown := [name for name in names if name not in source.workers()]:
        raise UsageError(f"no worker is called {unknown[0]!r}: there are {', '.join(source.workers())}")
    printer = make_printer(source.workers(), as_json=as_json, colour=wants_colour())
    try:
        _print_past(source, tail, printer, final=not follow)
        if follow:
            _follow(source, printer)
    except KeyboardInterrupt:
        pass
    if not source.files():
        click.echo(f"dagrad: {_why_nothing(source, stderr_only=stderr_only)}", err=True)


def _why_nothing(source: Source, *, stderr_only: bool) -> str:
    if stderr_only:
        return "this run has no files of stderr alone: it stands with stdout"
    return (
        f"no output in {source.folder.path / 'logs'}: that of dagrad worker and dagrad join is where they were started"
    )


def _compile(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(f"--grep is {text!r}: no regular expression, {error}") from None


def make_printer(workers: Sequence[str], *, as_json: bool, colour: bool) -> Callable[[Line], None]:
    """Return what prints a line: with its worker before it, in a colour of its own, or as JSON."""
    from dagrad_bus.tools.tables import display_name, without_commands

    places: dict[str, int] = {name: place for place, name in enumerate(workers)}

    def as_text(line: Line) -> None:
        prefix = f"{display_name(line.worker)}|"
        if colour:
            prefix = f"\x1b[{31 + (places.setdefault(line.worker, len(places)) + 1) % 6}m{prefix}\x1b[0m"
        click.echo(f"{prefix} {without_commands(line.text)}", color=True if colour else None)

    def as_object(line: Line) -> None:
        facts = {"schema": "dagrad.logs/1", "worker": line.worker, "stream": line.stream, "text": line.text}
        click.echo(json.dumps(facts, ensure_ascii=False))

    return as_object if as_json else as_text


def _print_past(source: Source, tail: int | None, printer: Callable[[Line], None], *, final: bool) -> None:
    """Print what is there already; a file is read in pieces, and of a tail only that much is held."""
    if tail is None:
        while _print_new(source, printer, final=final) and not final:
            pass
        return
    kept: dict[str, deque[Line]] = {}
    more = True
    while more:
        more = False
        for line in source.lines(final=final):
            kept.setdefault(line.worker, deque(maxlen=tail)).append(line)
            more = not final
    for lines in kept.values():
        for line in lines:
            printer(line)


def _print_new(source: Source, printer: Callable[[Line], None], *, final: bool = False) -> bool:
    """Print what is new; return whether there was anything."""
    printed = False
    for line in source.lines(final=final):
        printer(line)
        printed = True
    return printed


def _follow(source: Source, printer: Callable[[Line], None]) -> None:
    """Print what comes until the run is over, or nobody is left who might print."""
    quiet_since = time.monotonic()
    while True:
        run = source.folder.read_run()  # before the last look at the files: nothing comes after its end
        if _print_new(source, printer, final="ended" in run):
            quiet_since = time.monotonic()
        if "ended" in run:
            return
        if time.monotonic() - quiet_since > QUIET:
            if is_deserted(source.folder, run):
                _print_new(source, printer, final=True)
                click.echo("dagrad: launcher and workers are gone, without an end of the run", err=True)
                return
            quiet_since = time.monotonic()
        sys.stdout.flush()
        time.sleep(POLL)


def is_deserted(folder: RunFolder, run: Mapping[str, Any]) -> bool:
    """Whether neither the launcher nor any worker of a run on this host is alive; of other hosts it is not known."""
    if run.get("host") != socket.gethostname():
        return False
    addresses = [look_up(folder.path, name) for name in names_in(folder.path)]
    pids = [int(run.get("launcher", 0)), *(found.pid for found in addresses if found is not None)]
    far = any("127.0.0.1" not in found.inbox for found in addresses if found is not None)
    return not far and not any(_is_alive(pid) for pid in pids if pid > 0)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
