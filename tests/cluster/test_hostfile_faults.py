"""What a run over ssh survives, and what it leaves: workers, agents, the launcher killed; a host cut off."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from typing import Any

import pytest

from dagrad_bus.faults.sshhosts import SshHosts
from dagrad_bus.faults.sshrun import AGENT, DAGRAD, DIGITS, NURSERY, Run, make_run, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(200)]
NAMES = [f"node{host}.{slot}" for host in (1, 2, 3) for slot in (0, 1)]
LONG = (*DIGITS, "--steps", "100000", "--pace", "0.15", "--wait", "60")


@pytest.fixture
def run(ssh_cluster: SshHosts) -> Generator[Run]:
    with make_run(ssh_cluster) as made:
        made.write_hosts("node1:2\nnode2:2\nnode3:2\n")
        yield made


def start_training(run: Run, *options: str) -> None:
    """Start six workers and wait until all of them train in company."""
    run.start(*options, command=LONG)
    assert wait_until(lambda: all(gauge(run, name, "members") == 6 and run.step(name) > 5 for name in NAMES), 60), (
        run.err
    )


def gauge(run: Run, name: str, key: str) -> float | None:
    """Return the latest value of a worker's gauge, as the launcher has it."""
    lines: list[dict[str, Any]] = [line for line in run.journal(name) if "gauges" in line]
    found: float | None = lines[-1]["gauges"].get(key) if lines else None
    return found


def are_together(run: Run, names: list[str]) -> bool:
    """Whether each of these counts all of them as members and has neighbours that it hears."""
    return all(gauge(run, name, "members") == len(names) for name in names) and all(
        (gauge(run, name, "peers") or 0) >= min(4, len(names) - 1) for name in names
    )


def stop(run: Run) -> None:
    """Stop the run from another shell; nothing is left then."""
    done = run.cluster["head"].call(DAGRAD, "stop", str(run.folder), seconds=60)
    assert done.code == 0, done.text
    run.assert_nothing_left()


def test_a_killed_worker_comes_back(run: Run) -> None:
    start_training(run)
    before = run.step("node2.1")
    run.kill("node2", run.workers("node2")["node2.1"])
    assert wait_until(lambda: [one["attempt"] for one in run.events("started") if one["name"] == "node2.1"] == [0, 1])
    assert wait_until(lambda: are_together(run, NAMES), 60), run.err
    starts = [line for line in run.journal("node2.1") if line["event"] == "start"]
    assert len(starts) == 2
    back = run.journal("node2.1").index(starts[1])
    assert wait_until(lambda: any(line["event"] == "log" for line in run.journal("node2.1")[back:]))
    after = next(line for line in run.journal("node2.1")[back:] if line["event"] == "log")
    assert after["step"] >= before  # it copied its neighbours' state and step count
    ended = run.events("exited")
    assert [(one["name"], one["how"]) for one in ended] == [("node2.1", "SIGKILL")]
    assert "node2.1 failed: SIGKILL; starts again in" in run.err
    stop(run)
    assert run.wait() == 143


def test_a_killed_agent_takes_only_its_own_workers_and_they_come_back(run: Run) -> None:
    start_training(run, "--grace", "5")
    others = {host: run.workers(host) for host in ("node1", "node3")}
    (agent,) = run.cluster["node2"].find(AGENT)
    former = set(run.workers("node2").values()) | {one.pid for one in run.cluster["node2"].find(NURSERY)}
    run.kill("node2", agent.pid)
    assert wait_until(lambda: not former & {one.pid for one in run.cluster["node2"].processes()}, 15)
    assert wait_until(lambda: len(run.workers("node2")) == 2), run.err
    assert {host: run.workers(host) for host in ("node1", "node3")} == others
    assert wait_until(lambda: are_together(run, NAMES), 60), run.err
    assert "its agent is gone, and 2 workers with it; they start again" in run.err
    assert {one["name"] for one in run.events("lost")} == {"node2.0", "node2.1"}
    stop(run)
    assert run.wait() == 143


def test_a_killed_launcher_leaves_nothing_after_the_lease(run: Run) -> None:
    start_training(run, "--lease", "6", "--grace", "5")
    assert run.launcher is not None
    run.launcher.kill()
    killed = time.monotonic()
    run.launcher.wait()
    time.sleep(3)
    assert all(len(run.workers(host)) == 2 for host in run.cluster.names)  # they go on until then
    assert wait_until(lambda: not any(run.workers(host) for host in run.cluster.names), 20)
    assert time.monotonic() - killed < 6 + 5 + 3
    run.assert_nothing_left()


def test_a_killed_launcher_may_be_replaced_within_the_lease(run: Run) -> None:
    start_training(run, "--lease", "20")
    assert run.launcher is not None
    run.launcher.kill()
    run.launcher.wait()
    workers = {host: run.workers(host) for host in run.cluster.names}
    head = run.cluster["head"]
    with (run.base / "err2").open("wb") as err:
        attached = head.start(DAGRAD, "attach", "--progress", "none", str(run.folder), stderr=err)
    steps = {name: run.step(name) for name in NAMES}
    assert wait_until(lambda: all(run.step(name) > steps[name] + 20 for name in NAMES), 60)
    time.sleep(22)
    assert {host: run.workers(host) for host in run.cluster.names} == workers  # the same processes: nothing died
    for name in NAMES:  # what was missed is there, and nothing twice
        logged = [line["step"] for line in run.journal(name) if line["event"] == "log"]
        assert logged == sorted(set(logged))
    attached.terminate()
    assert attached.wait(40) == 143
    run.assert_nothing_left()


def test_a_host_cut_off_for_20_s_is_in_one_membership_again(run: Run) -> None:
    start_training(run)
    workers = {host: run.workers(host) for host in run.cluster.names}
    run.cluster.cut("node3")
    time.sleep(20)
    there, here = NAMES[4:], NAMES[:4]
    assert all(gauge(run, name, "members") == 4 for name in here), "those left together did not notice"
    steps = {name: run.step(name) for name in there}
    run.cluster.restore("node3")
    assert wait_until(lambda: all(run.step(name) > steps[name] + 100 for name in there), 60), run.err
    assert wait_until(lambda: are_together(run, NAMES), 60), run.err
    assert {host: run.workers(host) for host in run.cluster.names} == workers  # nobody was killed for it
    assert [one["attempt"] for one in run.events("started")] == [0] * 6
    for name in there:  # what they said meanwhile has come, all of it and once
        logged = [line["step"] for line in run.journal(name) if line["event"] == "log"]
        assert logged == sorted(set(logged))
        text = (run.folder / "logs" / f"{name}.log").read_text()
        assert len(set(text.splitlines())) == len(text.splitlines())
    stop(run)
    assert run.wait() == 143


def test_a_host_cut_off_for_longer_than_the_lease_starts_anew(run: Run) -> None:
    start_training(run, "--lease", "5", "--grace", "3")
    former = set(run.workers("node3").values())
    run.cluster.cut("node3")
    assert wait_until(lambda: not run.workers("node3"), 30)  # the lease ended them
    assert run.launcher is not None
    assert wait_until(lambda: "its agent is gone" in run.err, 40), run.err
    run.cluster.restore("node3")
    assert wait_until(lambda: len(run.workers("node3")) == 2 and not former & set(run.workers("node3").values()), 60)
    assert wait_until(lambda: are_together(run, NAMES), 60), run.err
    stop(run)


def test_workers_without_the_bus_still_get_help_from_nobody(run: Run) -> None:
    """A worker that fails before it has joined is not started again: it would fail again."""
    path = run.base / "worker.py"
    path.write_text("raise SystemExit('a mistake')")
    run.start("--preload", "none", command=(DIGITS[0], str(path)))
    assert run.wait() == 1
    assert {one["attempt"] for one in run.events("started")} == {0}
    assert len(run.events("exited")) == 6
    assert os.path.exists(run.folder / "summary.json")
