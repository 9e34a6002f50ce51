from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator

import pytest

from dagrad_bus.workers.launch import terminal as terminal_module
from dagrad_bus.workers.launch.terminal import Terminal

FOLLOW = """
import signal, time
from dagrad_bus.workers.launch.terminal import Terminal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
terminal = Terminal()
print(terminal.is_lost, flush=True)
while not terminal.is_lost:
    time.sleep(0.01)
print(terminal.is_lost, flush=True)
"""


@pytest.fixture
def hangup() -> Generator[None]:
    former = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, former)


@pytest.mark.parametrize(("handler", "ignored"), [(signal.SIG_IGN, True), (signal.SIG_DFL, False)])
def test_nohup_is_seen(hangup: None, handler: signal.Handlers, ignored: bool) -> None:
    signal.signal(signal.SIGHUP, handler)
    assert Terminal().hangup_is_ignored == ignored


@pytest.mark.parametrize(("before", "now", "lost"), [(True, False, True), (True, True, False), (False, False, False)])
def test_only_a_terminal_that_was_there_can_be_lost(
    monkeypatch: pytest.MonkeyPatch, before: bool, now: bool, lost: bool
) -> None:
    monkeypatch.setattr(terminal_module, "_is_there", lambda: before)
    terminal = Terminal()
    monkeypatch.setattr(terminal_module, "_is_there", lambda: now)
    assert terminal.is_lost == lost


@pytest.mark.slow
def test_a_terminal_that_is_closed_is_lost() -> None:
    master, slave = os.openpty()
    words = ["setsid", "--ctty", sys.executable, "-c", FOLLOW]
    with subprocess.Popen(words, stdin=slave, stdout=subprocess.PIPE, stderr=slave, text=True) as process:
        os.close(slave)
        assert process.stdout is not None
        assert process.stdout.readline() == "False\n"
        os.close(master)
        assert process.stdout.readline() == "True\n"
