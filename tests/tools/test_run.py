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

from dagrad_bus.tools.run import choose_preload
from dagrad_bus.workers.launch.command import resolve
from dagrad_bus.workers.launch.local import DEFAULT_PRELOAD

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
    assert "local.1| arguments ['--lr', '0.1', '-n', '9']" in ran.stdout
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


def test_options_reach_the_worker_as_its_environment(dagrad: Dagrad, worker: Path) -> None:
    worker.write_text(
        "import os; print({k: v for k, v in os.environ.items() if 'RANK' in k or k.startswith('DAGRAD_')})"
    )
    ran = dagrad(*LIGHT, "-n", "1", "--age-power", "2", "--wire", "f16", "train.py", RANK="3", DAGRAD_TAU="4")
    for part in ("'DAGRAD_AGE_POWER': '2'", "'DAGRAD_WIRE': 'f16'", "'DAGRAD_TAU': '4'", "'DAGRAD_LAUNCHER_RANK': '3'"):
        assert part in ran.stdout
    assert " 'RANK'" not in ran.stdout
    assert "DAGRAD_BIND': '127.0.0.1'" in ran.stdout


def test_json_is_all_that_goes_to_stdout(dagrad: Dagrad) -> None:
    ran = dagrad(*LIGHT, "-n", "2", "--json", "train.py")
    assert json.loads(ran.stdout)["schema"] == "dagrad.summary/1"
    assert "local.0| arguments []" in ran.stderr


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
        ("run", 127, "dagrad: no command given"),
        ("run --density 2 train.py", 2, "dagrad: density is 2.0: needs a share in (0, 1]"),
        ("run --tau soon train.py", 2, "dagrad: DAGRAD_TAU is 'soon': needs float"),
        ("run --degree 3 train.py", 2, "dagrad: degree is 3: needs an even number"),
        ("run -n 0 train.py", 2, "0 is not in the range"),
        ("run --lr 0.1 train.py", 2, "No such option"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    words: str, code: int, says: str, dagrad: Dagrad, tmp_path: Path
) -> None:
    ran = dagrad(*words.split())
    assert ran.returncode == code
    assert says in ran.stderr
    assert "Traceback" not in ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]


def test_a_folder_in_use_is_refused(dagrad: Dagrad) -> None:
    dagrad(*LIGHT, "-n", "1", "train.py")
    ran = dagrad(*LIGHT, "-n", "1", "train.py")
    assert (ran.returncode, "holds a run already" in ran.stderr) == (2, True)


def test_a_module_may_follow_our_options(dagrad: Dagrad) -> None:
    ran = dagrad(*LIGHT, "-n", "1", "-m", "train", "--lr", "0.1")
    assert "local.0| arguments ['--lr', '0.1']" in ran.stdout


@pytest.mark.parametrize("mode", [(), ("--spawn",)])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_still_writes_its_summary(
    mode: tuple[str, ...], number: signal.Signals, code: int, worker: Path, tmp_path: Path, start: Start
) -> None:
    worker.write_text("import time\nprint('up')\ntime.sleep(60)")
    launcher = start(*LIGHT, *mode, "-n", "2", "train.py")
    assert sorted(read_lines(launcher, 2)) == ["local.0| up\n", "local.1| up\n"]
    launcher.send_signal(number)
    assert launcher.wait(15) == code
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [one["state"] for one in summary["workers"]] == ["stopped", "stopped"]
    assert processes_of(tmp_path / "run") == []


@pytest.mark.skipif(sys.platform != "linux", reason="lists processes by /proc")
@pytest.mark.parametrize("mode", [(), ("--spawn",)])
def test_a_killed_launcher_leaves_no_process(mode: tuple[str, ...], worker: Path, tmp_path: Path, start: Start) -> None:
    worker.write_text(
        "import signal, subprocess, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '60'])\nprint('up')\ntime.sleep(60)"
    )
    launcher = start(*LIGHT, *mode, "--grace", "0.3", "-n", "3", "train.py")
    read_lines(launcher, 3)
    assert len(processes_of(tmp_path / "run")) == 7  # a nursery, three workers, their children
    launcher.kill()
    assert wait_until(lambda: not processes_of(tmp_path / "run"))


@pytest.mark.skipif(sys.platform != "linux", reason="lists processes by /proc")
def test_a_killed_nursery_is_the_launchers_fault_and_leaves_no_process(
    worker: Path, tmp_path: Path, start: Start
) -> None:
    worker.write_text(
        "import os, subprocess, time\nchild = subprocess.Popen(['sleep', '60'])\nprint(os.getppid())\ntime.sleep(60)"
    )
    launcher = start(*LIGHT, "-n", "1", "train.py")
    os.kill(int(read_lines(launcher, 1)[0].split()[1]), signal.SIGKILL)
    assert launcher.wait(15) == 125
    assert "dagrad: the nursery has ended" in (tmp_path / "errors").read_text()
    assert wait_until(lambda: not processes_of(tmp_path / "run"))


def test_a_worker_program_need_not_be_python(dagrad: Dagrad) -> None:
    ran = dagrad(*LIGHT, "-n", "2", "--", "sh", "-c", 'echo "$DAGRAD_NAME of $(wc -l < "$DAGRAD_ROSTER")"; exit 3')
    assert ran.returncode == 3
    assert "local.1| local.1 of 2" in ran.stdout


def test_what_is_imported_beforehand_fits_the_command(tmp_path: Path) -> None:
    script = resolve(["train.py"], cwd=tmp_path)
    own = resolve(["-m", "dagrad_bus.tools.cli"], cwd=tmp_path)
    assert choose_preload(script, ()) == DEFAULT_PRELOAD
    assert choose_preload(script, ("none",)) == ()
    assert choose_preload(script, ("none", "json,csv")) == ("json", "csv")
    assert choose_preload(own, ("json",)) == (*DEFAULT_PRELOAD, "dagrad_bus.tools.cli", "json")
