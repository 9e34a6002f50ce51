"""The fault matrix: which fault is promised to do what, in which layers that is shown, and what the tests found.

``python -m dagrad_bus.faults.matrix FILE...`` prints the table from what the tests wrote (``pytest --rows FILE``) and ends
with 1 if a row is red. A row is *proven* when each layer it names is green. What did not run is *not proven*, with
the reason; it never counts as passed.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WIDTH = 118


@dataclass(frozen=True, slots=True)
class Row:
    """One fault."""

    number: int
    fault: str
    promise: str
    layers: tuple[str, ...]
    """Layers that must be green, the deciding one first."""


def _row(number: int, fault: str, promise: str, layers: str) -> Row:
    return Row(number, fault, promise, tuple(layers.split()))


ROWS: tuple[Row, ...] = (
    _row(1, "process crash", "DEAD everywhere p50 <= 2.5 s, p99 <= 5 s; no other DEAD", "L3 L2"),
    _row(2, "host loss, no RST", "DEAD everywhere p50 <= 5.5 s, max 12 s", "L4 L2"),
    _row(3, "mass crash 25 %", "one component, degree 3-5 <= 10 s; BV", "L3 L2"),
    _row(4, "mass crash 50 %, N=128", "all survivors connected <= 30 s in every seed", "L2"),
    _row(5, "all 4 neighbours of x die", "degree of x >= 3 in 10 s; every dead node found <= 40 s", "L3 L2"),
    _row(6, "crash during repair", "degree <= 10 s; no half-open link > 10 s", "L2 L3"),
    _row(7, "short pause", "0 DEAD, <= 4 SUSPECT, all refuted; BV", "L3 L2"),
    _row(8, "long pause", "DEAD, then back, inc + 1, <= 5 s after CONT; x declares nobody dead; BV, RC", "L3 L2"),
    _row(9, "interpreter lock held 4 s", "0 DEAD; loop lag >= 3.5 s reported", "L3"),
    _row(10, "training thread wedged", "WEDGED <= 60 s + 2 heartbeats; edge kept; credit to it stops", "L3"),
    _row(11, "restart in place", "higher epoch wins; frames both ways <= 5 s; bad edge; sweep <= 10 s", "L3 L2"),
    _row(12, "orphaned forked child", "DEAD everywhere <= 12 s; restart bound <= 10 s", "L3"),
    _row(13, "partition in halves", "both halves one component, degree 3-5 <= 15 s after DEAD; both train", "L4 L2"),
    _row(14, "heal of 13", "table equal <= 15 s; >= 4 cross edges <= 60 s; RC", "L4 L2"),
    _row(15, "partition 1 h, N=64", "heals in every seed", "L2"),
    _row(16, "one-way partition", "<= 2 state changes per member per 60 s", "L4 L2"),
    _row(17, "bridge node", "beacon fresh <= 15 s; versions cross; 0 DEAD; RC", "L4 L2"),
    _row(18, "slow link, 1 Mbit/s", "0 timeouts; other links >= 90 %; RSS + <= 32 MiB; BV", "L4"),
    _row(19, "very slow link, 5 MB frame", "0 disconnects in 120 s; accepted <= 100 s; BV", "L3"),
    _row(20, "latency 200 +- 100 ms", "0 SUSPECT; median error of age <= 150 ms", "L3 L2"),
    _row(21, "reset storm", "frames lost; BV within its bound; ONE exact", "L3 L2"),
    _row(22, "cut mid-chunk", "partial frame discarded <= 2 s after the reconnect; BV, ONE", "L3 L2"),
    _row(23, "bit flips", "0 corrupt values mixed; refusals counted; BV", "L3 L1"),
    _row(24, "duplicates, replay", "nothing accepted twice; frames late", "L3 L1"),
    _row(25, "receiver grants no credit", "frames in flight bounded, no further jobs; <= 8 MB taken; BV after", "L3 L2"),
    _row(26, "reader slower than writer", "blocks coalesced; mailbox bounded; BV", "L3 L2"),
    _row(27, "memory pressure", "caps hold; credit stops instead", "L3"),
    _row(28, "descriptors exhausted", "clear error, no crash, links live; recovers", "L3"),
    _row(29, "oversize frame, 1000 parts", "dropped, struck; other links untouched", "L3 L1"),
    _row(30, "unknown key, wrong run", "0 messages accepted", "L3"),
    _row(31, "spoofed node id, routing id theft", "0 accepted; the victim's links stay up", "L3 L1"),
    _row(32, "header and payload fuzz, bomb", "no exception; RSS + <= 64 MiB; loop lag < 50 ms", "L1 L3"),
    _row(33, "join flood 500/s", "rate limited; heartbeat jitter p99 < 200 ms", "L3"),
    _row(34, "flash start, skew 0-60 s", "0 DEAD; graph as computed; links up <= 5 s; 0 sweeps", "L3 L2"),
    _row(35, "rolling restart of all", "0 SUSPECT for leavers; degree >= 3; sweeps <= 10 s", "L3 L2"),
    _row(36, "churn, 1 h, N=128", "degree 4 >= 99 % of node-time; connected; lambda2 <= 0.92", "L2"),
    _row(37, "views differ; two specs at once", "one graph, symmetric <= 6 s after views agree", "L1 L2"),
    _row(38, "wall clock +- 1 h; state file lost", "0 state changes; restarted node accepted <= 5 s", "L2"),
    _row(39, "version skew", "minor negotiated; major refused", "L1 L3"),
    _row(40, "disk full", "bus goes on, no crash", "L3"),
    _row(41, "CPU starvation", "health falls; 0 false DEAD; every SUSPECT refuted", "L3"),
    _row(42, "mixed chaos, then quiet", "one component, all ALIVE known, BV exact, RC <= 4 periods, no leak", "L3 L2"),
)  # fmt: skip

Found = dict[str, Any]
"""One test's word on one row: ``row``, ``layer``, ``test``, ``verdict``, ``reason``, ``figures``, ``seed``, ``schedule``."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one layer says of one row."""

    colour: str
    """``green``, ``red`` or ``not proven``."""
    text: str
    """Figures, or the reason."""


def load(paths: Iterable[Path]) -> list[Found]:
    """Return what tests wrote, later files over earlier ones for the same test."""
    newest: dict[tuple[str, int, str], Found] = {}
    for path in paths:
        for found in json.loads(path.read_text())["rows"]:
            newest[found["test"], found["row"], found["layer"]] = found
    return list(newest.values())


def judge(row: Row, layer: str, found: Sequence[Found]) -> Verdict:
    """Return the verdict of one layer: red if any test failed, not proven if any did not run or there is none."""
    mine = [entry for entry in found if (entry["row"], entry["layer"]) == (row.number, layer)]
    if not mine:
        return Verdict("not proven", "no test ran")
    figures = "; ".join(filter(None, (describe(entry) for entry in mine)))
    for colour, bad in (("red", "failed"), ("not proven", "skipped")):
        reasons = [entry["reason"] for entry in mine if entry["verdict"] == bad]
        if reasons:
            return Verdict(colour, "; ".join(filter(None, [*reasons, figures])))
    return Verdict("green", figures)


def describe(entry: Found) -> str:
    """Return the figures of one test in short."""
    words: list[str] = []
    for figure in entry["figures"]:
        bound = f" {figure['relation']} {_short(figure['limit'])}" if figure.get("relation") else ""
        unit = f" {figure['unit']}" if figure.get("unit") else ""
        words.append(f"{figure['name']} {_short(figure['value'])}{bound}{unit}")
    return ", ".join(words)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def table(found: Sequence[Found], rows: Sequence[Row] = ROWS) -> list[str]:
    """Return the matrix as lines, with a summary at the end."""
    lines: list[str] = []
    colours: list[str] = []
    for row in rows:
        lines.append(f"{row.number:>2}  {row.fault}: {row.promise}")
        extra = sorted({entry["layer"] for entry in found if entry["row"] == row.number} - set(row.layers))
        verdicts = [(layer, judge(row, layer, found)) for layer in (*row.layers, *extra)]
        for layer, verdict in verdicts:
            head = f"    {layer}  {verdict.colour:<10}  "
            lines += textwrap.wrap(head + verdict.text, WIDTH, subsequent_indent=" " * len(head)) or [head]
        colours.append(overall(verdict.colour for _, verdict in verdicts))
    seen = Counter(colours)
    proven, red = seen["green"], seen["red"]
    lines.append(f"{proven} rows proven, {red} red, {len(rows) - proven - red} not proven, of {len(rows)}")
    return lines


def overall(colours: Iterable[str]) -> str:
    """Return the colour of a row from those of its layers."""
    seen = set(colours)
    return next(colour for colour in ("red", "not proven", "green") if colour in seen)


def main(paths: Sequence[str]) -> int:
    """Print the matrix; return the exit code: 1 if a row is red. Files after the first hold what was measured again."""
    found = load(Path(path) for path in paths)
    twice = sorted({entry["test"] for path in paths[1:] for entry in load([Path(path)])})
    told = [f"measured twice, the first time out of bounds: {test}" for test in twice]
    sys.stdout.write("\n".join([*table(found), *told, ""]))
    return int(any(entry["verdict"] == "failed" for entry in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
