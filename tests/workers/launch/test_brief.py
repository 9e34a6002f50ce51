from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

from dagrad_bus.workers.launch.brief import Berth, Launch
from dagrad_bus.workers.launch.folder import RunFolder
from dagrad_bus.workers.launch.orders import Start, WorkerOrder
from dagrad_bus.workers.launch.pipes import Pipe


def never() -> AbstractAsyncContextManager[Pipe]:
    raise AssertionError("nothing is dialled")


def test_what_is_left_out_is_the_plain_run(tmp_path: Path) -> None:
    berth = Berth(label="local", workers=(WorkerOrder(name="local.0", slot=0),), dial=never)
    launch = Launch(folder=RunFolder(tmp_path), berths=[berth], start=Start(run="ab", host="", command=["x"], cwd="/"))
    assert (launch.min_workers, launch.min_success, launch.reread) == (None, None, None)
    asked = (launch.abort, launch.detach, launch.returning, launch.stop_at_once, launch.leave_on_interrupt)
    assert not any(asked) and not berth.is_local
    assert "never" not in repr(berth)
