"""hivemind: peers find each other in a DHT and average in groups that they make up anew each time.

Options: ``local_updates`` (each step updates the own replica, parameters are averaged each epoch; without it gradients
are gathered for an epoch and one update is made), ``epoch_steps`` local steps of all peers that make an epoch, and
``matchmaking`` seconds. Values travel as float16.
"""

# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false
from __future__ import annotations

import time

import hivemind
from hivemind.compression import Float16Compression

from .task import Course

ROOT_LIMIT = 60.0
"""Seconds to wait for the first peer's address."""
REFRESH = {"min_refresh_period": 0.1, "default_refresh_period": 0.5, "max_refresh_period": 1.0}
"""Seconds between two looks at what the others have done: the library's 0.5 to 10 are for longer epochs."""


def find_root(course: Course) -> hivemind.DHT:
    """Return this worker's node of the DHT; worker 0 makes the first one and leaves its address in the folder."""
    place = course.folder / "root"
    if course.rank == 0:
        dht = hivemind.DHT(host_maddrs=["/ip4/127.0.0.1/tcp/0"], start=True)
        scratch = place.with_suffix(".new")
        scratch.write_text("\n".join(str(address) for address in dht.get_visible_maddrs()))
        scratch.replace(place)
        return dht
    deadline = time.monotonic() + ROOT_LIMIT
    while not place.exists():
        if time.monotonic() > deadline:
            raise TimeoutError("worker 0 left no address")
        time.sleep(0.05)
    return hivemind.DHT(
        host_maddrs=["/ip4/127.0.0.1/tcp/0"], initial_peers=place.read_text().split(), start=True
    )  # fmt: skip


def main() -> None:
    """Train, with an average each epoch."""
    course = Course.from_arguments()
    options, batch = course.options, int(course.job["batch"])
    dht = find_root(course)
    model = course.model()
    optimizer = hivemind.Optimizer(
        dht=dht, run_id="peers", batch_size_per_step=batch,
        target_batch_size=course.workers * options["epoch_steps"] * batch, params=model.parameters(),
        optimizer=course.optimizer, use_local_updates=options["local_updates"],
        matchmaking_time=options["matchmaking"], averaging_timeout=10.0,
        delay_state_averaging=options["delay"], verbose=True, tracker_opts=REFRESH,
        grad_compression=Float16Compression(), state_averaging_compression=Float16Compression(),
    )  # fmt: skip
    for step in course.steps([optimizer.opt]):  # optimizer.param_groups are copies
        optimizer.zero_grad()
        course.loss(model, step).backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()
    course.finish(epochs=optimizer.local_epoch)
    optimizer.shutdown()
    dht.shutdown()


if __name__ == "__main__":
    main()
