from __future__ import annotations

import io
import os
import threading
import time

import pytest

from dagrad_bus.tools.spool import Spool


class Slow(io.StringIO):
    """A stream whose reader begins when told."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def write(self, text: str) -> int:
        assert self.go.wait(10)
        return super().write(text)


def test_what_is_put_comes_out_in_order_whichever_stream_it_is_for() -> None:
    both = io.StringIO()
    with Spool() as spool:
        out, notes = spool.stream(both), spool.stream(both)
        for number in range(100):
            (notes if number % 3 else out).write(f"{number}\n")
    assert both.getvalue().split() == [str(number) for number in range(100)]


def test_writing_never_waits_and_leaving_does() -> None:
    slow = Slow()
    with Spool() as spool:
        began = time.monotonic()
        for _ in range(1000):
            spool.stream(slow).write("x" * 100 + "\n")
        assert time.monotonic() - began < 5
        threading.Timer(0.2, slow.go.set).start()
    assert slow.getvalue().count("\n") == 1000


def test_what_runs_too_far_ahead_is_left_out_and_counted() -> None:
    slow = Slow()
    with Spool(most=1000) as spool:
        stream = spool.stream(slow)
        for number in range(500):
            stream.write(f"{number:09}\n")
        slow.go.set()
        while "not shown" not in slow.getvalue():
            time.sleep(0.001)
        stream.write("later\n")
    lines = slow.getvalue().splitlines()
    shown = [line for line in lines if line.isdigit()]
    assert shown == [f"{number:09}" for number in range(len(shown))]
    assert lines[len(shown) :] == [f"[dagrad: {500 - len(shown)} lines not shown, logs/ has them]", "later"]
    assert len(shown) in {100, 101}


def test_a_reader_that_left_stops_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as gone, Spool() as spool:
        other = io.StringIO()
        spool.stream(gone).write("one\n")
        spool.stream(gone).write("two\n")
        spool.stream(other).write("three\n")
    assert other.getvalue() == "three\n"


def test_it_is_a_terminal_where_its_target_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    target = io.StringIO()
    stream = Spool().stream(target)
    assert (stream.isatty(), stream.encoding) == (False, "utf-8")
    monkeypatch.setattr(target, "isatty", lambda: True)
    assert stream.isatty()
    with pytest.raises(OSError, match="fileno"):
        stream.fileno()
