"""What a worker leaves in the run folder: one JSON object a line, appended beside the training.

The training thread only appends to a bounded deque; serialising and writing happen on a thread of the recorder's own,
so neither a slow disk nor a long line ever holds the loop or a step. Lines that found no room are counted.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.blocks import Layout
from dagrad_bus.log import get_logger
from dagrad_bus.settings import Settings

INTERVAL = 0.5
"""Seconds between two progress lines."""
WAITING = 4096
"""Lines waiting to be written, at most."""
Snapshot = Mapping[str, Mapping[str, object]]


class Recorder:
    """Writes ``workers/<name>.jsonl`` of a run folder; without a folder it takes everything and writes nothing.

    Args:
        settings: run folder and name.
        snapshot: returns counters, gauges and histograms as they are now.
        progress: returns step and steps a second as they are now.
    """

    def __init__(
        self, settings: Settings, snapshot: Callable[[], Snapshot], progress: Callable[[], tuple[int, float]]
    ) -> None:
        folder = settings.directory
        self._path: Path | None = folder / "workers" / f"{settings.name}.jsonl" if folder is not None else None
        self._settings = settings
        self._snapshot = snapshot
        self._progress = progress
        self._waiting: deque[dict[str, object]] = deque(maxlen=WAITING)
        self._crowded_out = 0  # lines that found no room
        self._unwritten = 0  # lines the disk did not take
        self._started = False
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="dagrad-record")

    def _put(self, line: dict[str, object]) -> None:
        if self._path is not None:
            self._crowded_out += len(self._waiting) == WAITING
            self._waiting.append(line)

    def start(self, layout: Layout) -> None:
        """Write who this is and what it trains."""
        self._started = True
        settings = self._settings
        parts = {name: asdict(getattr(settings, name)) for name in ("exchange", "link", "beat", "transport")}
        self._put(
            {
                "event": "start",
                "time": time.time(),
                "name": settings.name,
                "pid": os.getpid(),
                "parameters": layout.size,
                "block": layout.block,
                "blocks": layout.blocks,
                "settings": {"run": settings.run, "degree": settings.degree, **parts},
            }
        )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Add the user's numbers; what is not finite becomes null, as JSON has no word for it."""
        plain = {name: _plain(number) for name, number in numbers.items()}
        self._put({**plain, "event": "log", "time": time.time(), "step": step})

    def sample(self, step: int, values: NDArray[np.float32]) -> None:
        """Add the fixed coordinates of the replica at ``step``; float32[m]."""
        text = base64.b64encode(values.astype("<f4", copy=False).tobytes()).decode()
        self._put({"event": "sample", "step": step, "values": text})

    def _state(self, event: str, **more: object) -> None:
        step, rate = self._progress()
        numbers: dict[str, object] = {"lines_lost": self._crowded_out + self._unwritten}
        for part, values in self._snapshot().items():
            numbers[part] = {k: _plain(v) if isinstance(v, float) else v for k, v in values.items()}
        self._put({"event": event, "time": time.time(), "step": step, "rate": round(rate, 4), **more, **numbers})

    async def keep(self) -> None:
        """Write progress until cancelled."""
        while True:
            self._state("progress")
            await self._write()
            await asyncio.sleep(INTERVAL)

    async def end(self, reason: str) -> None:
        """Write the last line and everything that waits, if there was a first line."""
        if self._started:
            self._state("end", reason=reason)
            await self._write()
        self._writer.shutdown()

    async def _write(self) -> None:
        if self._path is not None:
            await asyncio.get_running_loop().run_in_executor(self._writer, self._write_waiting, self._path)

    def _write_waiting(self, path: Path) -> None:
        """Append what waits, on the recorder's thread.

        The lines are taken here and not by the loop: a write that is cancelled before its turn has taken none.
        """
        lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            _append(path, lines)
        except OSError as error:  # a full disk costs the record, not the training
            if not self._unwritten:
                get_logger(worker=self._settings.name).warning("record_lost", file=path, why=error.strerror)
            self._unwritten += len(lines)


def _plain(number: float) -> float | None:
    """Return a number that JSON has a word for."""
    return float(number) if math.isfinite(number) else None


def _append(path: Path, lines: list[dict[str, object]]) -> None:
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
