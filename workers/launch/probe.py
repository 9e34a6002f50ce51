"""The probe of ``dagrad doctor``: runs on each host, answers questions on its standard streams, and is gone.

    python -u -m dagrad_bus.workers.launch.probe

One JSON object a line each way, every question answered by one line with the same ``op``:

===========  =========================================  ==============================================================
question     with                                       answer
===========  =========================================  ==============================================================
``clock``                                               ``received``, ``sent``: Unix time at both
``facts``    ``cwd``, empty: the probe's own            :func:`~dagrad_bus.workers.launch.examination.host.gather_facts`
``resolve``  ``names``                                  ``found``: name to addresses
``listen``   ``first``, ``last``, ``count``, ``token``  ``ports``, ``tried``, ``error``; until the probe ends
``visit``    ``targets``, ``timeout``                   ``visits``, one a target
===========  =========================================  ==============================================================

It ends with its stdin, or after two minutes without a question: it leaves nothing behind. Standard library only.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import closing
from typing import Any, BinaryIO

from dagrad_bus.workers.launch.examination.host import gather_facts, resolve
from dagrad_bus.workers.launch.examination.paths import Listeners, visit_all

PATIENCE = 120
"""Seconds without a question after which the probe ends."""


class Probe:
    """Answers questions."""

    def __init__(self) -> None:
        self._listeners: Listeners | None = None

    def answer(self, question: dict[str, Any], received: float) -> dict[str, Any]:
        """Return the answer to ``question``, which came at ``received``, Unix time."""
        match question.get("op"):
            case "clock":
                return {"received": received, "sent": time.time()}
            case "facts":
                return gather_facts(question.get("cwd") or os.getcwd(), os.environ)
            case "resolve":
                return {"found": {name: resolve(name) for name in question["names"]}}
            case "listen":
                return self._listen(question)
            case "visit":
                return {"visits": visit_all(question["targets"], question["timeout"])}
            case op:
                return {"error": f"unknown op {op!r}"}

    def close(self) -> None:
        """Listen no more."""
        if self._listeners is not None:
            self._listeners.close()

    def _listen(self, question: dict[str, Any]) -> dict[str, Any]:
        if self._listeners is None:
            self._listeners = Listeners(bytes.fromhex(question["token"]))
            ports = range(question["first"], question["last"] + 1)
            self._listeners.open(ports, question["count"], v6=bool(question.get("v6")))
        found = self._listeners
        return {"ports": found.ports, "tried": found.tried, "error": found.error}


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the questions end."""
    with closing(Probe()) as probe:
        while line := questions.readline():
            received = time.time()
            signal.alarm(PATIENCE)
            question = json.loads(line)
            answers.write(json.dumps({"op": question.get("op"), **probe.answer(question, received)}).encode() + b"\n")
            answers.flush()


if __name__ == "__main__":
    signal.alarm(PATIENCE)
    serve(sys.stdin.buffer, sys.stdout.buffer)
