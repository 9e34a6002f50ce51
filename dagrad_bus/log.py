"""Log set-up: structured events through the standard library's loggers, so that embedders stay in charge.

Nothing is configured on import. A bus logs rare facts only (a link up or refused, a peer silent), never frames. Where
the program configured nothing, the standard library prints warnings to stderr and drops the rest.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, WrappedLogger

NAME = "dagrad_bus"


def _plain(_: WrappedLogger, __: str, event: EventDict) -> str:
    """Render ``event key=value ...`` for loggers of a program that configured nothing of ours."""
    words = [str(event.pop("event")), *(f"{key}={value}" for key, value in sorted(event.items()))]
    return " ".join(words)


def get_logger(**bound: object) -> structlog.stdlib.BoundLogger:
    """Return a logger whose events carry ``bound``; it ends in the standard library's logger ``dagrad_bus``."""
    logger = structlog.wrap_logger(
        logging.getLogger(NAME),
        processors=[structlog.stdlib.filter_by_level, structlog.processors.format_exc_info, _plain],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return cast("structlog.stdlib.BoundLogger", logger.bind(**bound))


def configure(level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Show the bus's events, from ``level`` on, one a line with the time; for programs, not for libraries."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger(NAME)
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False
