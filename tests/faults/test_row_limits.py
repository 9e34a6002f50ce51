"""Rows 27, 28 and 40: memory, descriptors and disks that run out."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from dagrad_bus.faults import ledger
from dagrad_bus.faults.herd import Herd
from dagrad_bus.faults.rows import RowReport

HerdOf = Callable[..., AbstractContextManager[Herd]]
pytestmark = [pytest.mark.timeout(200), pytest.mark.faults]
MIB = 1 << 20


@pytest.mark.row(27, layer="L3")
def test_caps_hold_where_memory_is_short(herd_of: HerdOf, row: RowReport) -> None:
    link = {"max_frame": MIB, "mailbox_frames": 1000, "window": 2}
    size = {"blocks": 16384, "frame": 12000, "stripe": 64}  # frames of 0.75 MiB
    with herd_of(4, change={"link": link}, replica=size, pace=0.1) as herd:
        base = herd["w1"].ask("state")["rss"]
        herd["w1"].ask("limit", name="DATA", spare=256 * MIB)
        row.inject("w1 may have 256 MiB more, and takes nothing out of its mailbox")
        herd["w1"].ask("set", reading=False)
        others = [name for name in herd.names if name != "w1"]
        herd.until("no credit", lambda: not any(s["links"]["w1"][0] for s in herd.states(others).values()), 60)
        time.sleep(2)
        state = herd["w1"].ask("state")
        frames = sum(state["mailbox"].values())
        row.felt("frames waiting", frames)
        frame = 12064 * 64 / MIB
        row.at_most("mailbox", frames * frame, 64 + 2 * 3 * frame, "MiB")
        row.at_most("RSS +", state["rss"] - base, 64 + 64 + 2 * 3 * frame, "MiB")
        herd["w1"].ask("set", reading=True)
        ledger.settle(herd, 40)
        row.exactly("links that break BV", ledger.broken_links(herd), {})
        row.exactly("processes alive", len(herd.running), 4)


@pytest.mark.row(28, layer="L3")
def test_descriptors_run_out_and_come_back(herd_of: HerdOf, row: RowReport) -> None:
    with herd_of(6) as herd:
        open_now = herd["w0"].ask("limit", name="NOFILE", spare=1)["open"]
        row.note("descriptors open", open_now)
        row.inject("w0 may open one more; a neighbour is started anew")
        neighbour = herd["w0"].ask("state")["neighbours"][0]
        herd.kill(neighbour)
        herd.start(neighbour)
        time.sleep(5)
        herd.note_exits()
        row.note("its end and last words", [herd["w0"].exit, herd["w0"].log.read_text()[-200:]])
        row.exactly("w0 runs", "w0" in herd.running, True)
        state = herd["w0"].ask("state")
        others = [name for name in state["neighbours"] if name != neighbour]
        row.exactly("its other links", {state["out"].get(name) for name in others}, {"up"})
        row.note("link to the new one", state["out"].get(neighbour, "none"))
        herd["w0"].ask("limit", name="NOFILE", spare=500)
        row.at_most("all links up once the limit is raised", herd.await_linked(20), 10, "s")


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    """A file system of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs: {mounted.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.mark.row(40, layer="L3")
def test_a_full_disk_stops_nothing(herd_of: HerdOf, small_disk: Path, row: RowReport) -> None:
    with herd_of(4, folder=small_disk) as herd:
        row.inject("the run folder's disk is full")
        fill(small_disk)
        steps = {name: state["step"] for name, state in herd.states().items()}
        taken = herd.counter("frames_received", herd.states())
        time.sleep(5)
        row.felt("steps since, fewest", min(s["step"] - steps[name] for name, s in herd.states().items()))
        row.felt("frames since", herd.counter("frames_received", herd.states()) - taken)
        row.exactly("processes alive", len(herd.running), 4)
        left = herd.leave()
        row.exactly("left behind", [x for x in left.values() if x["threads"] or x["descriptors"]], [])


@pytest.mark.row(40, layer="L3")
def test_a_worker_restarts_on_a_full_disk(herd_of: HerdOf, small_disk: Path, row: RowReport) -> None:
    with herd_of(4, folder=small_disk) as herd:
        row.inject("the run folder's disk is full; w1 is killed and started anew")
        fill(small_disk)
        row.felt("bytes free before the start, less 1", 1 - shutil.disk_usage(small_disk).free)
        herd.kill("w1")
        herd.start("w1")
        row.at_most("linked again after", herd.await_linked(20), 10, "s")
        row.exactly("processes alive", len(herd.running), 4)


def fill(disk: Path) -> None:
    """Take all the room there is."""
    with pytest.raises(OSError, match="No space"), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
