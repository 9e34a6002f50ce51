from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from dagrad_bus.tools.bench_display import BenchDisplay, clock


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "0:00"), (61.9, "1:01"), (3600.0, "60:00")])
def test_a_clock_has_minutes_and_seconds(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize("is_terminal", [False, True])
def test_what_was_at_hand_tells_nothing_about_the_time_left(is_terminal: bool) -> None:
    out = StringIO()
    with BenchDisplay(Console(file=out, force_terminal=is_terminal, highlight=False, width=100)) as display:
        display.begin("runs", 2.0)
        display.advance("first", 0.0)
        display.advance("second", 2.0)
    assert "first  at hand" in out.getvalue()
    assert "second  runs: 0:00 left" in out.getvalue()


def test_the_time_left_follows_how_right_the_guesses_were(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("dagrad_bus.tools.bench_display.time.monotonic", lambda: now[0])
    with BenchDisplay(Console(file=StringIO())) as display:
        display.begin("runs", 40.0)
        now[0] = 120.0
        display.advance("one", 10.0)  # took twice what was guessed
        assert display.left() == "runs: 1:00 left"
