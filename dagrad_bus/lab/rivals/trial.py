"""One run of one system, in a network of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from dagrad_bus.lab.interface import run_inside
from dagrad_bus.lab.rivals.handout import LIMIT, Trial, crew_command, deal
from dagrad_bus.lab.rivals.outcome import Outcome, read_outcome
from dagrad_bus.lab.rivals.systems import SYSTEMS

SLACK = 30.0
"""Seconds beyond the crew's own limit after which it is killed."""
BULKY = ("problem.npz", "drivers", "run")
"""What a finished trial's folder can do without."""


def run_trial(trial: Trial, python: str, folder: Path) -> Outcome:
    """Deal the problem, run the workers, read what they left.

    Args:
        trial: what.
        python: interpreter of the system's environment.
        folder: for the files of this trial; the workers' output stays there.

    Raises:
        UsageError: no private network can be made.
    """
    place = folder.absolute()
    job = deal(trial, SYSTEMS[trial.system], python, place)
    foreign = {name: value for name, value in os.environ.items() if not name.startswith("DAGRAD_")}
    ran = run_inside(crew_command(job), timeout=LIMIT + SLACK, environ=foreign, log=place / "crew.log")
    found = read_outcome(trial, place, ran)
    for name in BULKY:
        target = place / name
        if target.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)
    return found
