"""DiLoCo of torchft: an outer step over the mean change of all replicas, every so many local steps.

Replicas find each other at a lighthouse, which worker 0 runs; each has a store and a manager of its own.
Options: ``sync_every`` steps, ``outer_lr`` and ``outer_momentum`` of the outer optimizer (Nesterov), and ``min_replicas``
that a quorum needs.
"""

# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false
from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

os.environ.setdefault("LOGLEVEL", "WARNING")

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported, but not by name
from torchft import Manager, ProcessGroupGloo
from torchft.coordination import LighthouseServer
from torchft.local_sgd import DiLoCo

from .task import Course

LOCALHOST = "127.0.0.1"
PATIENCE = timedelta(seconds=30)


def loader(model: torch.nn.Module, inner: torch.optim.Optimizer) -> tuple[Callable[[Any], None], Callable[[], Any]]:
    """Return what takes a replica's state over and what hands it out."""

    def load(state: Any) -> None:
        model.load_state_dict(state["model"])
        inner.load_state_dict(state["inner"])

    return load, lambda: {"model": model.state_dict(), "inner": inner.state_dict()}


def main() -> None:
    """Train, with an outer step now and then."""
    course = Course.from_arguments()
    port, options = int(course.job["port"]), course.options
    lighthouse = None
    if course.rank == 0:
        lighthouse = LighthouseServer(
            bind=f"{LOCALHOST}:{port}", min_replicas=options["min_replicas"], join_timeout_ms=1000
        )
    model = course.model()
    inner = course.optimizer(model.parameters())
    outer = torch.optim.SGD(
        model.parameters(), lr=options["outer_lr"], momentum=options["outer_momentum"], nesterov=True
    )
    store = TCPStore(LOCALHOST, port + 1 + course.rank, is_master=True, wait_for_workers=False)
    load, save = loader(model, inner)
    manager = Manager(
        pg=ProcessGroupGloo(timeout=PATIENCE), min_replica_size=options["min_replicas"], load_state_dict=load,
        state_dict=save, use_async_quorum=False, replica_id=f"replica{course.rank}", rank=0, world_size=1,
        store_addr=LOCALHOST, store_port=store.port, lighthouse_addr=f"http://{LOCALHOST}:{port}", hostname=LOCALHOST,
        timeout=PATIENCE, quorum_timeout=PATIENCE, init_sync=False,
    )  # fmt: skip
    with DiLoCo(manager, [model], inner, outer, sync_every=options["sync_every"]):
        for step in course.steps([inner]):
            inner.zero_grad()
            course.loss(model, step).backward()  # type: ignore[no-untyped-call]  # torch's
            inner.step()
    course.finish(outer_steps=manager.current_step())
    if lighthouse is not None:  # the others may still need it
        deadline = time.monotonic() + 20
        while len(list(course.folder.glob("worker.*.json"))) < course.workers and time.monotonic() < deadline:
            time.sleep(0.05)
    manager.shutdown(wait=False)


if __name__ == "__main__":
    main()
