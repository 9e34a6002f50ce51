from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.tools.cli import main
from dagrad_bus.tools.run import read_hosts
from dagrad_bus.workers.launch.folder import mark_process

PARENT_OF = """
def parent_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[1]
"""
Dagrad = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]
LIGHT = ("run", "--preload", "none", "--no-figures", "--dir", "run")
WORKER = """
import json, os, sys
folder, name = os.environ["DAGRAD_RUN_DIR"], os.environ["DAGRAD_NAME"]
with open(f"{folder}/workers/{name}.jsonl", "w") as file:
    for entry in (
        {"event": "start", "time": 0.0, "parameters": 500},
        {"event": "progress", "time": 1.0, "step": 0, "rate": 1.0, "counters": {}, "gauges": {}, "histograms": {}},
        {"event": "log", "time": 2.0, "step": 9, "loss": 0.25, "accuracy": 0.75},
        {"event": "end", "time": 3.0, "step": 10, "counters": {"bytes_sent": 100, "frames_mixed": 3}, "histograms": {}},
    ):
        print(json.dumps(entry), file=file)
print("arguments", sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def worker(tmp_path: Path) -> Path:
    """A worker that writes a journal of known numbers."""
    path = tmp_path / "train.py"
    path.write_text(WORKER)
    return path


def processes_of(folder: Path) -> list[int]:
    """Return the processes whose environment names the run folder, zombies aside."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"DAGRAD_RUN_DIR={folder}".encode() in (path / "environ").read_bytes():
                found.append(int(path.name))
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
    return found


def read_lines(launcher: subprocess.Popen[str], count: int) -> list[str]:
    assert launcher.stdout is not None
    return [launcher.stdout.readline() for _ in range(count)]


def wait_until(holds: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_run_leaves_a_whole_folder(dagrad: Dagrad, tmp_path: Path) -> None:
    ran = dagrad(*LIGHT[:3], "--dir", "run", "-n", "2", "--density", "0.05", "train.py", "--lr", "0.1", "-n", "9")
    assert ran.returncode == 0, ran.stderr
    assert "local:1| arguments ['--lr', '0.1', '-n', '9']" in ran.stdout
    run, summary = (json.loads((tmp_path / "run" / f"{name}.json").read_text()) for name in ("run", "summary"))
    assert run["settings"]["exchange"]["density"] == 0.05
    assert [ended["state"] for ended in run["exits"]] == ["done", "done"]
    assert (summary["steps"], summary["rate"], summary["bytes_per_step"], summary["dense_share"]) == (
        20,
        10,
        10,
        0.0025,
    )
    assert summary["mixing"]["verdict"] == "mixed"
    assert (tmp_path / "run" / "figures" / "accuracy.png").exists()
    assert (tmp_path / "run" / "logs" / "local.0.log").read_text().startswith("arguments")


@pytest.mark.slow
def test_options_reach_the_worker_as_its_environment(dagrad: Dagrad, worker: Path) -> None:
    worker.write_text(
        "import os; print({k: v for k, v in os.environ.items() if 'RANK' in k or k.startswith('DAGRAD_')})"
    )
    ran = dagrad(*LIGHT, "-n", "1", "--age-power", "2", "--wire", "f16", "train.py", RANK="3", DAGRAD_TAU="4")
    for part in ("'DAGRAD_AGE_POWER': '2'", "'DAGRAD_WIRE': 'f16'", "'DAGRAD_TAU': '4'", "'DAGRAD_LAUNCHER_RANK': '3'"):
        assert part in ran.stdout
    assert " 'RANK'" not in ran.stdout
    assert "DAGRAD_BIND': '127.0.0.1'" in ran.stdout


@pytest.mark.slow
def test_json_is_all_that_goes_to_stdout(dagrad: Dagrad) -> None:
    ran = dagrad(*LIGHT, "-n", "2", "--json", "train.py")
    assert json.loads(ran.stdout)["schema"] == "dagrad.summary/1"
    assert "local:0| arguments []" in ran.stderr


def test_the_first_failure_is_the_exit_code_and_last_on_stderr(dagrad: Dagrad, worker: Path) -> None:
    worker.write_text("import os, sys\nprint('before')\nif os.environ['DAGRAD_SLOT'] == '1': sys.exit('out of luck')")
    ran = dagrad(*LIGHT, "-n", "3", "train.py")
    assert ran.returncode == 1
    assert "failed workers" in ran.stderr
    assert ran.stderr.rstrip().endswith("last lines of local.1:\n  before\n  out of luck")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("run -n 2 missing.py", 127, "dagrad: missing.py: no such file"),
        ("run -n 2 -m nosuchmodule --lr 3", 127, "dagrad: No module named 'nosuchmodule'"),
        ("run -n 2 -- python -m nosuchmodule", 127, "dagrad: No module named 'nosuchmodule'"),
        ("run -n 2 no-such-program", 127, "dagrad: no-such-program: command not found"),
        ("run", 2, "dagrad: no command given"),
        ("run --density 2 train.py", 2, "dagrad: density is 2.0: needs a share in (0, 1]"),
        ("run --tau soon train.py", 2, "dagrad: DAGRAD_TAU is 'soon': needs float"),
        ("run --degree 3 train.py", 2, "dagrad: degree is 3: needs an even number"),
        ("run -n 0 train.py", 2, "0 is not in the range"),
        ("run --lr 0.1 train.py", 2, "No such option"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    words: str,
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(words.split())
    assert end.value.code == code
    said = capsys.readouterr().err
    assert says in said and "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]


@pytest.mark.slow
def test_a_folder_in_use_is_refused(dagrad: Dagrad) -> None:
    dagrad(*LIGHT, "-n", "1", "train.py")
    ran = dagrad(*LIGHT, "-n", "1", "train.py")
    assert (ran.returncode, "holds a run already" in ran.stderr) == (2, True)


@pytest.mark.slow
def test_a_module_may_follow_our_options(dagrad: Dagrad) -> None:
    ran = dagrad(*LIGHT, "-n", "1", "-m", "train", "--lr", "0.1")
    assert "local:0| arguments ['--lr', '0.1']" in ran.stdout


@pytest.mark.slow
@pytest.mark.parametrize("mode", [(), ("--spawn",)])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_still_writes_its_summary(
    mode: tuple[str, ...], number: signal.Signals, code: int, worker: Path, tmp_path: Path, start: Start
) -> None:
    worker.write_text("import time\nprint('up')\ntime.sleep(60)")
    launcher = start(*LIGHT, *mode, "-n", "2", "train.py")
    assert sorted(read_lines(launcher, 2)) == ["local:0| up\n", "local:1| up\n"]
    launcher.send_signal(number)
    assert launcher.wait(15) == code
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [one["state"] for one in summary["workers"]] == ["stopped", "stopped"]
    assert processes_of(tmp_path / "run") == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="lists processes by /proc")
@pytest.mark.parametrize("mode", [(), ("--spawn",)])
def test_a_killed_launcher_leaves_no_process(mode: tuple[str, ...], worker: Path, tmp_path: Path, start: Start) -> None:
    worker.write_text(
        "import signal, subprocess, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '60'])\nprint('up')\ntime.sleep(60)"
    )
    launcher = start(*LIGHT, *mode, "--grace", "0.3", "-n", "3", "train.py")
    read_lines(launcher, 3)
    assert (
        len(processes_of(tmp_path / "run")) == 7
    )  # a nursery, three workers, their children; the agent has the name of no worker's folder
    launcher.kill()
    assert wait_until(lambda: not processes_of(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="lists processes by /proc")
@pytest.mark.parametrize("victim", ["nursery", "agent"])
def test_workers_that_lose_their_parents_start_again(victim: str, worker: Path, tmp_path: Path, start: Start) -> None:
    worker.write_text(
        "import os, subprocess, time\nchild = subprocess.Popen(['sleep', '60'])\n"
        "parent = os.getppid()\nprint(os.environ['DAGRAD_ATTEMPT'], parent, parent_of(parent), flush=True)\n"
        "time.sleep(60)"
    )
    worker.write_text(PARENT_OF + worker.read_text())
    launcher = start(*LIGHT, "--grace", "0.3", "-n", "1", "train.py")
    _, attempt, nursery, agent = read_lines(launcher, 1)[0].split()
    os.kill(int(nursery if victim == "nursery" else agent), signal.SIGKILL)
    _, next_attempt, next_nursery, next_agent = read_lines(launcher, 1)[0].split()
    assert (attempt, next_attempt) == ("0", "1") and {nursery, agent}.isdisjoint({next_nursery, next_agent})
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(15) == 143
    said = (tmp_path / "errors").read_text()
    assert "local: its agent is gone, and 1 workers with it; they start again" in said
    assert ("local: the nursery has ended" in said) == (victim == "nursery")
    assert wait_until(lambda: not processes_of(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="lists processes by /proc")
def test_without_restarts_they_are_lost_and_leave_no_process(worker: Path, tmp_path: Path, start: Start) -> None:
    worker.write_text(
        "import os, subprocess, time\nchild = subprocess.Popen(['sleep', '60'])\nprint(os.getppid())\ntime.sleep(60)"
    )
    launcher = start(*LIGHT, "--on-failure", "continue", "-n", "1", "train.py")
    os.kill(int(read_lines(launcher, 1)[0].split()[1]), signal.SIGKILL)
    assert launcher.wait(15) == 137
    assert "dagrad: local: the nursery has ended" in (tmp_path / "errors").read_text()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["exits"][0]["state"] == "lost"
    assert wait_until(lambda: not processes_of(tmp_path / "run"))


@pytest.mark.slow
def test_a_worker_program_need_not_be_python(dagrad: Dagrad) -> None:
    ran = dagrad(*LIGHT, "-n", "2", "--", "sh", "-c", 'echo "$DAGRAD_NAME of $(wc -l < "$DAGRAD_ROSTER")"; exit 3')
    assert ran.returncode == 3
    assert "local:1| local.1 of 2" in ran.stdout


@pytest.mark.slow
def test_a_worker_that_had_joined_is_started_again(dagrad: Dagrad, worker: Path, tmp_path: Path) -> None:
    worker.write_text(
        "import json, os, pathlib, sys\n"
        "name, folder = os.environ['DAGRAD_NAME'], pathlib.Path(os.environ['DAGRAD_RUN_DIR'])\n"
        "entry = {'name': name, 'pid': os.getpid(), 'epoch': 1, 'inbox': 'tcp://127.0.0.1:1', 'beat': 'tcp://127.0.0.1:2'}\n"
        "(folder / 'peers' / f'{name}.json').write_text(json.dumps(entry))\n"
        "sys.exit(0 if os.environ['DAGRAD_ATTEMPT'] == '1' else 'bad luck')"
    )
    ran = dagrad(*LIGHT, "-n", "1", "train.py")
    assert ran.returncode == 0, ran.stderr
    assert "dagrad: local.0 failed: exit 1; starts again in" in ran.stderr
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["ready", "started", "exited", "started", "exited"]
    assert dagrad("stop", "run").returncode == 0 and dagrad("attach", "run").returncode == 2


@pytest.mark.slow
def test_a_detached_run_is_found_again(dagrad: Dagrad, worker: Path, tmp_path: Path, start: Start) -> None:
    worker.write_text(
        "import pathlib, time\nprint('up')\nwhile not pathlib.Path('go').exists(): time.sleep(0.01)\nprint('down')"
    )
    ran = dagrad(*LIGHT, "--detach", "-n", "2", "train.py")
    try:
        assert ran.returncode == 0, ran.stderr
        assert "dagrad attach" in ran.stderr and "Warning" not in ran.stderr
        assert len(processes_of(tmp_path / "run")) == 3  # a nursery and two workers
        assert "exits" not in json.loads((tmp_path / "run" / "run.json").read_text())
        launcher = start("attach", "--no-figures", "run")
        events = tmp_path / "run" / "events.jsonl"
        assert wait_until(lambda: events.read_text().count('"ready"') == 2)
    finally:
        (tmp_path / "go").touch()
    out, _ = launcher.communicate(timeout=15)
    assert launcher.returncode == 0
    assert sorted(line for line in out.splitlines() if "down" in line) == ["local:0| down", "local:1| down"]
    assert "up" not in out  # that was shown before
    assert wait_until(lambda: not processes_of(tmp_path / "run"))


@pytest.mark.slow
def test_a_detached_run_is_stopped(dagrad: Dagrad, worker: Path, tmp_path: Path) -> None:
    worker.write_text("import time\ntime.sleep(60)")
    assert dagrad(*LIGHT, "--detach", "-n", "2", "train.py").returncode == 0
    ran = dagrad("stop", "run")
    assert ran.returncode == 0, ran.stderr
    exits = json.loads((tmp_path / "run" / "run.json").read_text())["exits"]
    assert [ended["state"] for ended in exits] == ["stopped", "stopped"]
    assert wait_until(lambda: not processes_of(tmp_path / "run"))


@pytest.mark.slow
def test_a_launcher_that_is_there_is_asked_to_stop(dagrad: Dagrad, worker: Path, tmp_path: Path, start: Start) -> None:
    worker.write_text("import time\nprint('up')\ntime.sleep(60)")
    launcher = start(*LIGHT, "-n", "1", "train.py")
    read_lines(launcher, 1)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (run["launcher"], run["launcher_mark"]) == (launcher.pid, mark_process(launcher.pid))
    ran = dagrad("attach", "run")
    assert ran.returncode == 2 and f"process {launcher.pid}: nothing to take over" in ran.stderr
    ran = dagrad("stop", "run")
    assert ran.returncode == 0 and f"process {launcher.pid}, stops the run" in ran.stderr
    assert launcher.wait(15) == 143


def test_a_rehearsal_makes_nothing(dagrad: Dagrad, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("node1 slots=2\nann@node2 slots=1 port=2222\n")
    before = sorted(tmp_path.iterdir())
    ran = dagrad("run", "--hostfile", "hosts", "--dry-run", "--env", "WANDB_API_KEY=abc", "train.py", "--lr", "0.1")
    assert ran.returncode == 0, ran.stderr
    for part in ("3 workers run: train.py --lr 0.1", "node1: node1.0, node1.1", "ann@node2", "WANDB_API_KEY=***"):
        assert part in ran.stdout
    assert sorted(tmp_path.iterdir()) == before


HOSTS = {
    "hostfile": None,
    "host_list": None,
    "workers": None,
    "include": None,
    "exclude": None,
    "oversubscribe": False,
    "cwd": None,
}


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, []),
        ({"host_list": "a:2,b:2"}, ["a.0", "a.1", "b.0", "b.1"]),
        ({"host_list": "a:2,b:2", "workers": 3}, ["a.0", "a.1", "b.0"]),
        ({"host_list": "a:2,b:2", "include": "b"}, ["b.0", "b.1"]),
        ({"host_list": "a:1,b:1", "workers": 4, "oversubscribe": True}, ["a.0", "a.1", "b.0", "b.1"]),
    ],
)
def test_options_choose_hosts_and_slots(given: dict[str, object], names: list[str]) -> None:
    hosts = read_hosts(HOSTS | given)
    assert [f"{host.label}.{slot}" for host in hosts for slot in host.slot_numbers] == names
    assert all(host.cwd == os.getcwd() for host in hosts)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"host_list": "a:2", "hostfile": "hosts"}, "two lists of hosts"),
        ({"hostfile": "no-such-file"}, "no-such-file: No such file"),
        ({"host_list": "a:2", "workers": 3}, "3"),
        ({"host_list": "a:0"}, "a:0|slots|count"),
    ],
)
def test_wrong_hosts_are_named(given: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_hosts(HOSTS | given)
