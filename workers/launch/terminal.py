"""What a SIGHUP means: somebody sent it, the terminal was closed, or it is to be ignored (``nohup``)."""

from __future__ import annotations

import os
import signal
from contextlib import suppress


class Terminal:
    """The terminal of this process, as it was when this was made."""

    def __init__(self) -> None:
        self._was_there = _is_there()
        self.hangup_is_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        """Whether we were started to outlive it."""

    @property
    def is_lost(self) -> bool:
        """Whether it has been closed since."""
        return self._was_there and not _is_there()


def _is_there() -> bool:
    with suppress(OSError):
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY))
        return True
    return False
