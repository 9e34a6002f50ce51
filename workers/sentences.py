"""The sentences of GLUE, from the official TSV files or from the hub.

Tasks that compare two sentences have a second one. GLUE keeps the labels of its test files to itself, so ``dev`` is what
is reported on, and ``val`` holds samples of ``train`` out for tuning. Source: Wang et al., GLUE: A Multi-Task Benchmark
and Analysis Platform for Natural Language Understanding, arXiv:1804.07461.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.errors import UsageError
from dagrad_bus.workers import shards
from dagrad_bus.workers.extras import load_from_hub

HUB = "nyu-mll/glue"
VALIDATION_SHARE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """How a task is written down."""

    columns: tuple[str | int, ...]
    """Of the sentences: one or two headings; numbers in a file without a heading."""
    label: str | int
    """Column of the label."""
    names: tuple[str, ...] = ("0", "1")
    """Labels as written; a label's place is its number, as on the hub."""
    dev: str = "dev"
    """Name of the held-out file, without ``.tsv``."""
    on_hub: tuple[str, ...]
    """Columns of the sentences on the hub."""
    hub_dev: str = "validation"
    """Name of the held-out part on the hub."""


ENTAILED = ("entailment", "not_entailment")
TABLES: dict[str, Table] = {
    "sst2": Table(columns=("sentence",), label="label", on_hub=("sentence",)),
    "cola": Table(columns=(3,), label=1, on_hub=("sentence",)),
    "mrpc": Table(columns=("#1 String", "#2 String"), label="Quality", on_hub=("sentence1", "sentence2")),
    "qqp": Table(columns=("question1", "question2"), label="is_duplicate", on_hub=("question1", "question2")),
    "qnli": Table(columns=("question", "sentence"), label="label", names=ENTAILED, on_hub=("question", "sentence")),
    "rte": Table(columns=("sentence1", "sentence2"), label="label", names=ENTAILED, on_hub=("sentence1", "sentence2")),
    "mnli": Table(
        columns=("sentence1", "sentence2"),
        label="gold_label",
        names=("entailment", "neutral", "contradiction"),
        dev="dev_matched",
        on_hub=("premise", "hypothesis"),
        hub_dev="validation_matched",
    ),
}


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Labelled texts, and which of them train and are reported on."""

    firsts: list[str]
    """The n texts."""
    seconds: list[str] | None
    """What each is compared with; None where nothing is."""
    labels: NDArray[np.int64]
    """int64[n] in 0..classes - 1."""
    groups: NDArray[np.int64] | None
    """int64[n]: natural group of each, where there are any."""
    classes: int
    train: shards.Indices
    held: shards.Indices

    def texts(self) -> Iterator[str]:
        """Go through the texts to train on, for a vocabulary."""
        for part in (self.firsts, self.seconds or []):
            yield from (part[number] for number in self.train if part)


Rows = tuple[list[list[str]], list[int]]
"""Sentences by column, and labels."""


def load(task: str, folder: Path | None, seed: int, report: Literal["test", "val"] = "test") -> Corpus:
    """Load a task of :data:`TABLES`.

    Args:
        task: its name.
        folder: holds ``train.tsv`` and ``dev.tsv``; None asks the hub.
        seed: of the samples held out.
        report: ``test`` reports on the dev file, ``val`` on 5 % of the training file, which is then not trained on.

    Raises:
        UsageError: a missing or unreadable file; the hub cannot be reached.
    """
    table = TABLES[task]
    if folder is None:
        found = load_from_hub(HUB, task)
        parts = [_from_hub(found[name], table) for name in ("train", table.hub_dev)]
    else:
        parts = [read_table(folder / f"{name}.tsv", table) for name in ("train", table.dev)]
    (columns, labels), (dev_columns, dev_labels) = parts
    count = len(labels)
    sentences = [[*first, *second] for first, second in zip(columns, dev_columns, strict=True)]
    everything = np.array([*labels, *dev_labels], np.int64)
    train, held = np.arange(count), np.arange(count, len(everything))
    if report == "val":
        train, held = shards.split(everything[:count], max(1, round(count * VALIDATION_SHARE)), seed)
    seconds = sentences[1] if len(sentences) > 1 else None
    return Corpus(sentences[0], seconds, everything, None, len(table.names), train, held)


def read_table(file: Path, table: Table) -> Rows:
    """Read one TSV file; there is no quoting. Damaged lines, of which QQP has some, are left out.

    Raises:
        UsageError: no such file, no such column, or no line with a known label.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise UsageError(
            f"{file} is missing: --data-dir is the task's folder with train.tsv and {table.dev}.tsv"
        ) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is no UTF-8 text: {error}") from None
    places = _places(file, lines, table)
    numbers = {name: number for number, name in enumerate(table.names)}
    columns: list[list[str]] = [[] for _ in places[1:]]
    labels: list[int] = []
    for line in lines[isinstance(table.label, str) :]:
        cells = line.rstrip("\r").split("\t")
        if len(cells) > max(places) and cells[places[0]] in numbers:
            labels.append(numbers[cells[places[0]]])
            for column, place in zip(columns, places[1:], strict=True):
                column.append(cells[place])
    if not labels:
        raise UsageError(f"{file} has no line with a label of {', '.join(table.names)}: is it another task's?")
    return columns, labels


def _places(file: Path, lines: Sequence[str], table: Table) -> list[int]:
    """Return the column numbers of the label and the sentences."""
    heading = lines[0].removeprefix("\ufeff").rstrip("\r").split("\t")
    places: list[int] = []
    for column in (table.label, *table.columns):
        if isinstance(column, str) and column not in heading:
            raise UsageError(f"{file} has no column {column!r}, but {', '.join(heading)[:200]}: is it another task's?")
        places.append(heading.index(column) if isinstance(column, str) else column)
    return places


def _from_hub(part: Any, table: Table) -> Rows:  # an untyped library's own object
    return [[str(text) for text in part[name]] for name in table.on_hub], [int(label) for label in part["label"]]
