"""Decent-DP: gossip of whole models over torch.distributed, one edge of a graph an iteration.

The library steps inside ``backward()`` and makes its optimizers at the second step; they are caught as they are made.
Options: ``topology``, ``ring`` or ``one-peer-exp`` (or any other name that it knows).
"""

# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false
from __future__ import annotations

import torch
import torch.distributed as dist
from decent_dp.ddp import DecentralizedDataParallel

from .task import Course


def main() -> None:
    """Train with one neighbour at a time."""
    course = Course.from_arguments()
    address = f"tcp://127.0.0.1:{course.job['port']}"
    dist.init_process_group("gloo", init_method=address, rank=course.rank, world_size=course.workers)
    made: list[torch.optim.Optimizer] = []

    def make(named: list[tuple[str, torch.Tensor]]) -> torch.optim.Optimizer:
        made.append(course.optimizer([value for _, value in named]))
        return made[-1]

    model = course.model()
    net = DecentralizedDataParallel(model, optim_fn=make, topology=course.options["topology"], _local_world_size=1)
    for step in course.steps(made):
        course.loss(net, step).backward()  # type: ignore[no-untyped-call]  # torch's
    course.finish()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
