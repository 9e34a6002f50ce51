"""This system: the loop of ``local.py`` and one line more, started by ``dagrad run``.

As in the reference program, a worker waits until all have published their addresses, and goes on mixing at the end
until the others are done. Unlike the other drivers it is run where it stands, and is handed the job alone: the launcher
gives the rank.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

import dagrad_bus
from dagrad_bus.lab.rivals.task import Course
from dagrad_bus.settings import from_environment
from dagrad_bus.workers.loop import mix_until_all_are_done, wait_for_all

WAIT = 30.0
"""Seconds to wait for the others at the start, at most."""


def main() -> None:
    """Train and gossip."""
    torch.set_num_threads(1)
    settings = from_environment(os.environ)
    course = Course(Path(sys.argv[1]), settings.members.index(settings.name))
    model = course.model()
    optimizer = course.optimizer(model.parameters())
    with dagrad_bus.attach(model, optimizer):
        wait_for_all(settings, WAIT)
        for step in course.steps([optimizer]):
            optimizer.zero_grad()
            course.loss(model, step).backward()  # type: ignore[no-untyped-call]  # torch's
            optimizer.step()
        optimizer.zero_grad()
        if settings.directory is not None:
            mix_until_all_are_done(settings.directory, settings, optimizer.step, course.options["linger"])
        course.finish()


if __name__ == "__main__":
    main()
