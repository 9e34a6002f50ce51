"""`dagrad run --hostfile` over three hosts with sshd: starts, output, exit codes, environment, elastic hosts."""

from __future__ import annotations

import json
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from dagrad_bus.faults.engines import why_no_frameworks
from dagrad_bus.faults.sshhosts import SshHosts
from dagrad_bus.faults.sshrun import AGENT, DIGITS, PYTHON, Run, make_run, wait_until

pytestmark = pytest.mark.cluster
TWO_EACH = "node1 slots=2\nnode2:2\n\n# the third\nnode3 slots=2 max_slots=4\n"
QUICK = ("--preload", "none")


@pytest.fixture
def run(ssh_cluster: SshHosts) -> Generator[Run]:
    with make_run(ssh_cluster) as made:
        made.write_hosts(TWO_EACH)
        yield made


def script(run: Run, text: str) -> tuple[str, ...]:
    """Write a worker program that every host sees."""
    path = run.base / "worker.py"
    path.write_text(text)
    return (PYTHON, str(path))


def test_six_workers_on_three_hosts_learn_together(run: Run) -> None:
    run.start(command=(*DIGITS, "--steps", "100", "--pace", "0.06"))
    assert run.wait() == 0, run.err
    kept = json.loads((run.folder / "run.json").read_text())
    imports = max(event["imports"] for event in run.events("ready"))
    assert kept["start_seconds"] - imports < 5.0
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["mixing"]["verdict"] == "mixed"
    assert summary["accuracy"]["worst"] > 0.9
    names = [f"node{host}.{slot}" for host in (1, 2, 3) for slot in (0, 1)]
    assert [worker["name"] for worker in summary["workers"]] == names
    for name in names:
        host, slot = name.split(".")
        assert f"{host}:{slot}| {name} step 100 loss" in run.out
        journal = run.journal(name)
        assert (journal[0]["event"], journal[-1]["event"]) == ("start", "end")
        assert max(line["gauges"].get("peers", 0) for line in journal if "gauges" in line) == 4
        assert "step 100 loss" in (run.folder / "logs" / f"{name}.log").read_text()
        inbox = json.loads((run.folder / "peers" / f"{name}.json").read_text())["inbox"]
        assert inbox.startswith(f"tcp://{run.cluster.address(host)}:")
        assert 20000 <= int(inbox.rpartition(":")[2]) <= 32000
    run.assert_nothing_left()
    for host in run.cluster.names:  # what the workers themselves wrote stays on the hosts, and nothing else
        left = [path for path in run.cluster[host].tmp.rglob("*") if path.is_file()]
        assert {path.parent.name for path in left} == {"done", "final"}, left


@pytest.mark.parametrize(
    ("program", "code", "says"),
    [
        ("if name == 'node2.1': sys.exit(7)", 7, "node2.1 failed: exit 7"),
        ("if name == 'node3.0': os.kill(os.getpid(), 11)", 139, "node3.0 failed: SIGSEGV"),
        ("if name == 'node1.0': raise RuntimeError('out of luck')", 1, "RuntimeError: out of luck"),
        ("", 0, ""),
    ],
)
def test_exit_codes_come_through(program: str, code: int, says: str, run: Run) -> None:
    command = script(run, f"import os, sys\nname = os.environ['DAGRAD_NAME']\nprint('up')\n{program}\n")
    run.start(*QUICK, command=command)
    assert run.wait() == code
    assert says in run.err
    if code == 1:
        assert run.err.rstrip().endswith("RuntimeError: out of luck")
        (told,) = [event for event in run.events() if "traceback" in event]
        assert told["name"] == "node1.0" and told["traceback"].endswith("RuntimeError: out of luck")
    assert run.out.count("| up") == 6
    run.assert_nothing_left()


def test_what_cannot_start_is_said_and_leaves_nothing(run: Run) -> None:
    run.start(*QUICK, command=("no-such-program",))
    assert run.wait() == 127
    assert "no-such-program: command not found" in run.err
    run.assert_nothing_left()


def test_hosts_that_cannot_be_reached(run: Run) -> None:
    run.write_hosts("node1\nnode9\n")
    run.start(*QUICK, command=script(run, "print('up')"))
    assert run.wait() == 3
    assert "node9: cannot be reached" in run.err and "--min-workers" in run.err
    run.assert_nothing_left()


def test_a_run_may_begin_without_some_hosts(run: Run) -> None:
    run.write_hosts("node1:2\nnode9\n")
    command = script(run, "import time; print('up'); time.sleep(3)")
    run.start(*QUICK, "--min-workers", "2", "--min-success", "2", command=command)
    assert wait_until(lambda: run.out.count("| up") == 2)
    assert run.launcher is not None
    run.launcher.send_signal(signal.SIGTERM)  # it would wait for node9 for ever
    assert run.wait() == 143
    run.assert_nothing_left()


def test_mistakes_in_the_host_file_are_listed_at_once(run: Run) -> None:
    run.write_hosts("node1 slot=4\nnode2 slots=two\n")
    run.start(command=("true",))
    assert run.wait() == 2
    assert f"{run.hostfile}:1:7: unknown key 'slot', did you mean 'slots'?" in run.err
    assert f"{run.hostfile}:2:" in run.err and "whole number from 1 to 4096" in run.err
    assert not run.folder.exists()


def test_a_login_that_talks_and_a_line_without_end(run: Run) -> None:
    run.cluster.greet("node2", "Welcome to node2\n")
    command = script(run, "import os\nprint('x' * 1_000_000)\nprint('after', os.environ['DAGRAD_NAME'])")
    run.start(*QUICK, command=command)
    assert run.wait() == 0, run.err
    assert "node2| Welcome to node2" in run.out
    assert run.out.count("| after node") == 6
    for name in ("node1.0", "node2.1", "node3.0"):
        assert (run.folder / "logs" / f"{name}.log").read_text() == "x" * 1_000_000 + f"\nafter {name}\n"


def test_secrets_and_variables_travel_by_stdin(run: Run) -> None:
    text = (
        "import os, time\nprint(os.environ['WANDB_API_KEY'], os.environ['MINE'], 'RANK' in os.environ)\ntime.sleep(2)"
    )
    env = {"WANDB_API_KEY": "tell-nobody", "RANK": "3", "WORLD_SIZE": "4"}
    run.start(*QUICK, "--env", "MINE=4 2", command=script(run, text), env=env)
    assert wait_until(lambda: run.out.count("| tell-nobody 4 2 False") == 6), run.err
    key = (run.folder / "key").read_text().strip()
    everything = b"".join(path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
    assert b"tell-nobody" not in everything and key.encode() not in everything
    assert run.wait() == 0
    assert key not in (run.folder / "run.json").read_text()
    assert "tell-nobody" not in (run.folder / "run.json").read_text()


def test_stderr_may_be_kept_apart(run: Run) -> None:
    command = script(run, "import sys; print('out'); print('err', file=sys.stderr)")
    run.start(*QUICK, "--log-dir", str(run.base / "mine"), command=command)
    assert run.wait() == 0
    assert (run.base / "mine" / "node3.1" / "stdout.log").read_text() == "out\n"
    assert (run.base / "mine" / "node3.1" / "stderr.log").read_text() == "err\n"
    assert "node3:1| err" in run.out


def test_a_folder_is_copied_first(run: Run) -> None:
    source = Path(run.cluster["head"].tmp) / "code"
    source.mkdir()
    (source / "train.py").write_text("print('copied')")
    run.start(*QUICK, "--sync", "/tmp/code", command=(PYTHON, "/tmp/code/train.py"))
    assert run.wait() == 0, run.err
    assert run.out.count("| copied") == 6


def test_signals_are_passed_on_and_ctrl_c_stops(run: Run) -> None:
    text = (
        "import signal, time\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('usr1', flush=True))\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('term', flush=True), exit(0)))\n"
        "print('up', flush=True)\nwhile True: time.sleep(0.1)"
    )
    run.start(*QUICK, command=script(run, text))
    assert wait_until(lambda: run.out.count("| up") == 6)
    assert run.launcher is not None
    run.launcher.send_signal(signal.SIGUSR1)
    assert wait_until(lambda: run.out.count("| usr1") == 6)
    run.launcher.send_signal(signal.SIGTSTP)
    assert wait_until(lambda: "Ctrl-Z has no effect" in run.err)
    run.launcher.send_signal(signal.SIGINT)
    assert run.wait() == 130
    assert run.out.count("| term") == 6
    run.assert_nothing_left()


def test_a_second_ctrl_c_kills(run: Run) -> None:
    text = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)"
    run.start(*QUICK, "--grace", "30", command=script(run, text))
    assert wait_until(lambda: run.out.count("| up") == 6)
    assert run.launcher is not None
    for _ in range(2):
        run.launcher.send_signal(signal.SIGINT)
        assert wait_until(lambda: "stopping all workers" in run.err)
    assert run.wait(10) == 130
    run.assert_nothing_left()


def test_the_host_file_is_read_again(run: Run) -> None:
    run.write_hosts("node1:2\nnode2:1\n")
    run.start(command=(*DIGITS, "--steps", "2000", "--pace", "0.1"))
    assert wait_until(lambda: min(run.step(name) for name in ("node1.0", "node1.1", "node2.0")) > 5, 60), run.err
    run.write_hosts("node1:1\nnode2:1\nnode3:1\n")
    assert run.launcher is not None
    run.launcher.send_signal(signal.SIGHUP)
    assert wait_until(lambda: run.step("node3.0") > 20, 60), run.err
    assert wait_until(lambda: "node1.1" not in run.workers("node1"))
    assert "1 workers added, 1 stopped" in run.err
    joined = [line for line in run.journal("node3.0") if line["event"] == "progress"][-1]
    assert joined["gauges"]["peers"] == 2  # the one that left is no neighbour any more
    assert joined["counters"]["frames_mixed"] > 0
    run.launcher.send_signal(signal.SIGTERM)
    assert run.wait() == 143
    run.assert_nothing_left()


def test_a_detached_run_goes_on_is_taken_over_and_stopped(run: Run) -> None:
    run.start("--detach", command=(*DIGITS, "--steps", "5000", "--pace", "0.1"))
    assert run.wait() == 0, run.err
    assert "dagrad attach" in run.err
    assert all(len(run.workers(host)) == 2 for host in run.cluster.names)
    head = run.cluster["head"]
    dagrad = run.words(command=())[0]
    before = {f"node{n}.1": run.step(f"node{n}.1") for n in (1, 2, 3)}
    with (run.base / "err").open("wb") as err:
        attached = head.start(dagrad, "attach", "--progress", "none", str(run.folder), stderr=err)
    assert wait_until(lambda: all(run.step(name) > before[name] + 5 for name in before), 60), run.err
    attached.send_signal(signal.SIGINT)
    assert attached.wait(20) == 0, run.err
    assert all(len(run.workers(host)) == 2 for host in run.cluster.names)
    done = head.call(dagrad, "stop", str(run.folder), seconds=40)
    assert done.code == 0, done.text
    run.assert_nothing_left()
    summary = json.loads((run.folder / "summary.json").read_text())
    assert {worker["state"] for worker in summary["workers"]} <= {"done", "stopped"}


def test_a_dry_run_shows_everything_and_touches_nothing(run: Run) -> None:
    run.start("--dry-run", command=("train.py",), env={"HF_TOKEN": "hidden"})
    assert run.wait() == 0
    assert "node3: node3.0, node3.1" in run.out
    assert f"-u -m dagrad_bus.workers.{AGENT}" in run.out and "BatchMode=yes" in run.out
    assert "HF_TOKEN=***" in run.out and "hidden" not in run.out
    assert not run.folder.exists()
    assert not [path for host in run.cluster.names for path in run.cluster[host].tmp.rglob("*") if path.is_file()]


def test_frameworks_see_a_world_of_one_and_exchange(run: Run) -> None:
    if why := why_no_frameworks("accelerate", "transformers", "lightning"):
        pytest.skip(why)
    run.write_hosts("node1\nnode2\n")
    program = str(Path(__file__).with_name("frameworks.py"))
    run.start("--preload", "none", command=(PYTHON, program, "accelerate", "transformers", "lightning", "--attach"))
    assert run.wait() == 0, run.err
    found = [json.loads(line.partition("| ")[2]) for line in run.out.splitlines() if '| {"' in line]
    assert len(found) == 6, run.out
    assert all(report["world"] == 1 and report["mixed"] > 0 for report in found), found
