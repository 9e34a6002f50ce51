from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.workers.launch.examination.collect import (
    Examination,
    Interview,
    _Silent,
    collect,
    estimate_offset,
)
from dagrad_bus.workers.launch.hostfile import Host

DELAY = st.floats(0.0001, 0.5)


@given(st.floats(-1e4, 1e4), st.lists(st.tuples(DELAY, DELAY), min_size=1, max_size=8))
@settings(max_examples=50)
def test_the_offset_is_within_its_error(offset: float, delays: list[tuple[float, float]]) -> None:
    samples: list[tuple[float, float, float, float]] = []
    now = 1e6
    for there, back in delays:
        received = now + there + offset
        samples.append((now, received, received + 0.01, now + there + 0.01 + back))
        now += 1
    found, error = estimate_offset(samples)
    assert abs(found - offset) <= error + 1e-6
    assert error <= min(there + back for there, back in delays) / 2 + 1e-6


@dataclass
class _FakePipe:
    lines: deque[bytes]
    end: str = ""
    sent: bytes = b""

    def write(self, line: bytes) -> None:
        self.sent += line

    async def read(self) -> bytes:
        if not self.lines:
            await asyncio.sleep(10 if self.end == "hangs" else 0)
        return self.lines.popleft() if self.lines else b""

    def describe_end(self) -> str:
        return self.end


def _ask(pipe: _FakePipe, patience: float = 1.0) -> tuple[dict[str, Any], list[str]]:
    async def ask() -> tuple[dict[str, Any], list[str]]:
        interview = Interview(pipe)
        return await interview.ask("clock", patience=patience, more=1), interview.noise

    return asyncio.run(ask())


def test_answers_are_told_from_what_login_scripts_print() -> None:
    pipe = _FakePipe(deque([b"Welcome!\n", b"[1]\n", b'{"op": "other"}\n', b'{"op": "clock", "sent": 1}\n']))
    answer, noise = _ask(pipe)
    assert answer["sent"] == 1 and noise[0] == "Welcome!" and len(noise) == 3
    assert json.loads(pipe.sent) == {"op": "clock", "more": 1}


def test_an_end_is_explained_by_stderr_or_by_what_was_printed() -> None:
    with pytest.raises(_Silent, match="refused"):
        _ask(_FakePipe(deque(), "refused"))
    with pytest.raises(_Silent, match="account expired"):
        _ask(_FakePipe(deque([b"account expired\n"])))
    with pytest.raises(_Silent, match="no answer within 0 s"):
        _ask(_FakePipe(deque(), "hangs"), 0.01)


@pytest.mark.slow
def test_this_host_twice_and_one_that_cannot_run(tmp_path: Path) -> None:
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\necho Welcome\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    subjects = [
        Host(label="a", host="localhost", slot_numbers=(0,)),
        Host(label="b", host="127.0.0.1", slot_numbers=(0, 1), addr="localhost", python=str(wrapper)),
        Host(label="c", host="127.0.0.1", slot_numbers=(0,), python=str(tmp_path / "nosuch")),
    ]
    told: list[str] = []
    wanted = Examination(subjects=subjects, env=os.environ, cwd=str(tmp_path), throughput=True)
    examined = asyncio.run(collect(wanted, told.append))
    a, b, c = examined.hosts
    assert (a.reached, b.reached, c.reached) == (True, True, False)
    assert a.address == "127.0.0.1" and b.names["localhost"] and a.names == b.names
    assert list(b.noise) == ["Welcome"] and "nosuch" in c.end
    assert a.facts["cwd"] == {"path": str(tmp_path), "exists": True}
    assert {(path.source, path.target) for path in examined.paths} == {("a", "b"), ("b", "a")}
    assert len(examined.paths) == 4 and all(not path.error and (path.rate or 0) > 1e6 for path in examined.paths)
    assert len(told) == 3 and json.dumps(examined.to_json())
