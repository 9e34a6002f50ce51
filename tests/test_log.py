"""Log set-up: events end in the standard library's logger; importing configures nothing."""

from __future__ import annotations

import io
import logging
from collections.abc import Generator

import pytest

from dagrad_bus.log import NAME, configure, get_logger


@pytest.fixture(autouse=True)
def as_it_was() -> Generator[None]:
    logger = logging.getLogger(NAME)
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield
    logger.handlers, logger.level, logger.propagate = before


def test_an_event_reaches_the_standard_logger_with_what_was_bound(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=NAME):
        get_logger(worker="local.0").info("link_up", peer="local.1")
    assert caplog.messages == ["link_up peer=local.1 worker=local.0"]


def test_configure_writes_one_line_an_event_and_drops_what_is_below_the_level() -> None:
    stream = io.StringIO()
    configure(logging.WARNING, stream)
    log = get_logger()
    log.info("small")
    log.warning("peer_silent", peer="local.2")
    assert stream.getvalue().endswith("WARNING dagrad_bus peer_silent peer=local.2\n")
    assert stream.getvalue().count("\n") == 1


def test_configuring_twice_does_not_write_twice() -> None:
    stream = io.StringIO()
    configure(logging.INFO, stream)
    configure(logging.INFO, stream)
    get_logger().info("once")
    assert stream.getvalue().count("once") == 1
