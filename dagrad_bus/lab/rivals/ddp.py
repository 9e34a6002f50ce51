"""DistributedDataParallel of torch over gloo: synchronous, exact, float32."""

from __future__ import annotations

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from .task import Course


def main() -> None:
    """Train with the mean gradient of all workers."""
    course = Course.from_arguments()
    address = f"tcp://127.0.0.1:{course.job['port']}"
    dist.init_process_group("gloo", init_method=address, rank=course.rank, world_size=course.workers)
    model = course.model()
    net = DistributedDataParallel(model)
    optimizer = course.optimizer(model.parameters())
    for step in course.steps([optimizer]):
        optimizer.zero_grad()
        course.loss(net, step).backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()
    course.finish()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
