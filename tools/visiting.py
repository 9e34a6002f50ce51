"""What all commands that look at a live run share: how the run is named, how often it is shown, in which form."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dagrad_bus.errors import NobodyAnswers, UsageError
from dagrad_bus.settings import PREFIX
from dagrad_bus.workers.launch.folder import RunFolder

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from dagrad_bus.bus.approach import Approach

RUNS = Path("runs")
NOT_WELL, NOBODY = 1, 3
"""Exit codes: something is wrong with the run; nobody answers."""
_FILE_WIDTH = 200
"""Columns of tables that go to a file or a pipe."""
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
Function = TypeVar("Function", bound=Callable[..., None])


@dataclass(frozen=True, slots=True)
class Target:
    """The run that a command line means."""

    folder: RunFolder | None
    """None: by seeds alone."""
    approach: Approach | None
    """None: by folder, where nobody is asked."""
    names: tuple[str, ...] = ()
    """Workers, as the user named them."""


def run_options(function: Function) -> Function:
    """Add the options that say which run is meant and how to reach it."""
    for option in (
        click.option("--timeout", type=click.FloatRange(0.1, 600), default=5.0, show_default=True, metavar="S",
                     help="Seconds that the workers have to answer."),
        click.option("--key-file", type=click.Path(path_type=Path), metavar="FILE", envvar=f"{PREFIX}KEY_FILE",
                     help=f"With --seed: the run's key, a file.  [{PREFIX}KEY_FILE]"),
        click.option("--run", "run_id", metavar="ID", envvar=f"{PREFIX}RUN",
                     help=f"With --seed: the run's id, as in its run.json.  [{PREFIX}RUN]"),
        click.option("--seed", "seeds", multiple=True, metavar="[NAME@]HOST:PORT",
                     help="Inbox of any worker of the run, in place of DIR. Repeatable."),
    ):  # fmt: skip
        function = option(function)
    return function


def form_options(function: Function) -> Function:
    """Add the options that say how the answer looks."""
    for option in (
        click.option("--no-color", is_flag=True, help="No colours; NO_COLOR in the environment does the same."),
        click.option("--watch", type=click.FloatRange(0.1, 3600), metavar="S",
                     help="Show it anew every S seconds, until Ctrl-C."),
        click.option("--json", "as_json", is_flag=True, help="One JSON object; with --watch one a line."),
    ):  # fmt: skip
        function = option(function)
    return function


def find_target(words: Sequence[str], seeds: Sequence[str], run_id: str | None, key_file: Path | None) -> Target:
    """Return the run that is meant, and the workers named.

    Args:
        words: a run folder, or none, then names of workers.
        seeds: addresses of workers; they make the folder superfluous.
        run_id: with seeds.
        key_file: with seeds.

    Raises:
        UsageError: no such run; the message says how to name one.
    """
    from dagrad_bus.bus.approach import Approach, from_folder, read_seeds

    directory, names = split_words(words)
    if directory is None and seeds:
        if not run_id or key_file is None:
            raise UsageError("--seed needs --run ID and --key-file FILE too: workers tell only who holds the run's key")
        try:
            key = key_file.read_bytes().strip()
        except OSError as error:
            raise UsageError(f"{key_file}: {error.strerror}") from None
        return Target(None, Approach(run_id, key, seeds=read_seeds(seeds, run_id)), names)
    folder = find_folder(directory)
    return Target(folder, from_folder(folder.path, seeds), names)


def split_words(words: Sequence[str]) -> tuple[Path | None, tuple[str, ...]]:
    """Return the run folder among the words of a command line, if there is one, and the workers' names."""
    first = words[0] if words else ""
    if first and (os.sep in first or first in {".", ".."} or Path(first).is_dir()):
        return Path(first), tuple(words[1:])
    return None, tuple(words)


def find_folder(directory: Path | None) -> RunFolder:
    """Return the run folder: the one given, that of DAGRAD_RUN_DIR, or the newest below ``runs``.

    Raises:
        UsageError: there is none.
    """
    if directory is None:
        given = os.environ.get(f"{PREFIX}RUN_DIR")
        directory = Path(given) if given else newest_run(RUNS)
        if directory is None:
            raise UsageError(f"which run? give its folder, or --seed HOST:PORT: there is none below {RUNS}/ here")
        click.echo(f"dagrad: run folder {directory}", err=True)
    folder = RunFolder(directory.absolute())
    folder.read_run()
    return folder


def newest_run(parent: Path) -> Path | None:
    """Return the folder of the run below ``parent`` that was started last; None: there is none."""
    found: list[tuple[float, Path]] = []
    for path in parent.glob("*/run.json"):
        with suppress(OSError):
            found.append(((path.parent / "key").stat().st_mtime, path.parent))  # written once, at the start
    return max(found)[1] if found else None


def explain_end(folder: RunFolder | None, error: NobodyAnswers, now: float) -> NobodyAnswers:
    """Return what to say where nobody answers: of a run that is over, when that was and what is left of it."""
    if folder is None:
        return error
    run = folder.read_run()
    if "ended" not in run:
        has_output = any((folder.path / "logs").glob("*.*"))  # elsewhere it stays with the engine
        return NobodyAnswers(
            f"{error}; {'its output: dagrad logs' if has_output else 'dagrad report'} {_short(folder)}"
        )
    ago = max(0.0, now - float(run["ended"]))
    return NobodyAnswers(f"the run in {_short(folder)} ended {format_span(ago)} ago: dagrad report {_short(folder)}")


def _short(folder: RunFolder) -> str:
    """Return the folder as the user would write it."""
    with suppress(ValueError):
        return str(folder.path.relative_to(Path.cwd()))
    return str(folder.path)


def format_span(seconds: float | None) -> str:
    """Return a length of time in its own unit: ``0.31 ms``, ``4.2 ms``, ``240 ms``, ``3.1 s``, ``4 min``, ``2.5 h``."""
    if seconds is None:
        return "-"
    if seconds < 0.01:
        return f"{seconds * 1000:.2g} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True, slots=True)
class Shown:
    """One look at the run, ready to be shown."""

    facts: Mapping[str, Any]
    """For ``--json``."""
    table: Callable[[], Table]
    verdict: Callable[[], Sequence[Text]]
    """Lines that say what the table comes to."""
    code: int
    """Exit code, if it is the last look."""


def show(
    target: Target,
    look: Callable[[], Awaitable[Shown]],
    *,
    every: float | None,
    as_json: bool,
) -> Awaitable[int]:
    """Show what ``look`` finds, once or every so many seconds; return the exit code."""
    return _show_once(look, as_json) if every is None else _watch(target, look, every, as_json)


async def _show_once(look: Callable[[], Awaitable[Shown]], as_json: bool) -> int:
    shown = await look()
    if as_json:
        click.echo(json.dumps(shown.facts, indent=2))
    else:
        console = wide_console()
        console.print(shown.table())
        console.print(*shown.verdict(), sep="\n")
    return shown.code


async def _watch(target: Target, look: Callable[[], Awaitable[Shown]], every: float, as_json: bool) -> int:
    """Show it anew until interrupted, or until the run's launcher says that it is over."""
    from rich.console import Group
    from rich.live import Live

    console, code = wide_console(), NOBODY
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            began = time.monotonic()
            shown = await look()
            code = shown.code
            if as_json:
                click.echo(json.dumps(shown.facts))
            elif console.is_terminal:
                live.update(Group(*shown.verdict(), shown.table()), refresh=True)  # what is too long is cut below
            else:
                console.print(shown.table(), *shown.verdict(), sep="\n")
            if target.folder is not None and "ended" in target.folder.read_run():
                return code
            await asyncio.sleep(max(0.0, began + every - time.monotonic()))


def visit(target: Target, work: Callable[[], Awaitable[int]]) -> int:
    """Run ``work`` on a loop of its own; return its exit code, 0 for Ctrl-C.

    Raises:
        NobodyAnswers: with what is known of a run that is over.
    """

    async def whole() -> int:
        return await work()

    try:
        return asyncio.run(whole())
    except KeyboardInterrupt:
        return 0
    except NobodyAnswers as error:
        raise explain_end(target.folder, error, time.time()) from None


def wide_console() -> Console:
    """Return a console; where it is no terminal, wide enough for all columns."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_FILE_WIDTH)


Column = tuple[str, Callable[[Any], "str | Text"]]
"""Heading, and what it says of a row."""
_AROUND = 3
"""Blanks beside a cell."""


def fitting_table(lead: Sequence[Column], columns: Sequence[Column], rows: Sequence[Any], expendable: Sequence[str],
                  width: int) -> Table:  # fmt: skip
    """Return a table of ``rows`` that is no wider than the terminal.

    Args:
        lead: the first columns, to the left; they stay.
        columns: the others, numbers to the right.
        rows: whatever the columns understand.
        expendable: headings of columns that go where there is no room, the first one first.
        width: columns of the terminal.
    """
    from rich import box
    from rich.table import Table

    chosen = [*lead, *columns]
    cells = {heading: [cell(row) for row in rows] for heading, cell in chosen}
    needs = {heading: max([len(heading), *map(len, texts)]) + _AROUND for heading, texts in cells.items()}
    for heading in expendable:
        if sum(needs[kept] for kept, _ in chosen) + 1 <= width:
            break
        chosen = [column for column in chosen if column[0] != heading]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    left = {heading for heading, _ in lead} | {"address"}
    for heading, _ in chosen:
        table.add_column(heading, justify="left" if heading in left else "right", no_wrap=True)
    for place in range(len(rows)):
        table.add_row(*(cells[heading][place] for heading, _ in chosen))
    return table


def without_colour(wanted: bool) -> None:
    """Have all output of this process plain, where that is wanted."""
    if wanted:
        os.environ["NO_COLOR"] = "1"


def wants_colour() -> bool:
    """Whether lines that are written as they are may have colours."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
