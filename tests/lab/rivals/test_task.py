from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dagrad_bus.lab.rivals.handout import Trial, deal, recipe
from dagrad_bus.lab.rivals.outcome import read_times
from dagrad_bus.lab.rivals.systems import SYSTEMS
from dagrad_bus.lab.rivals.task import Course, cpu_seconds, family, peak_bytes, sent_on_loopback
from dagrad_bus.workers import problem
from dagrad_bus.workers.reference import run


@pytest.fixture
def make_course(make_trial: Callable[..., Trial], tmp_path: Path) -> Callable[..., Course]:
    """Return a course of one worker alone."""

    def make(**changes: object) -> Course:
        trial = make_trial(**{"workers": 1, "steps": 12, **changes})
        return Course(deal(trial, SYSTEMS["local"], sys.executable, tmp_path), 0)

    return make


def _train(course: Course) -> torch.nn.Module:
    model = course.model()
    optimizer = course.optimizer(model.parameters())
    for step in course.steps([optimizer]):
        optimizer.zero_grad()
        course.loss(model, step).backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()
    course.finish(word="done")
    return model


def test_a_worker_alone_learns_what_the_reference_learns(
    make_course: Callable[..., Course], make_trial: Callable[..., Trial]
) -> None:
    course = make_course()
    mine = _train(course)
    wanted = recipe(make_trial(workers=1, steps=12))
    other = problem.build_model("mlp", 0)
    last = list(run(other, problem.load(0, "val"), wanted, 1))[-1]
    found = json.loads((course.folder / "worker.0.json").read_text())
    for one, two in zip(mine.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-3)  # the oracle follows the rate a step later
    assert abs(found["accuracy"] - last.accuracy) < 0.05


def test_a_worker_leaves_times_samples_and_results(make_course: Callable[..., Course]) -> None:
    course = make_course()
    _train(course)
    times = read_times(course.folder / "times.0")
    assert times.shape == (12, 2)
    assert (np.diff(times.ravel()) >= 0).all()
    samples = np.load(course.folder / "samples.0.npy")
    assert samples.shape[1] == 4096 and len(samples) == 14  # before, after each step, at the end
    assert (samples[0] != samples[1]).any() and (samples[-1] == samples[-2]).all()
    found = json.loads((course.folder / "worker.0.json").read_text())
    assert found["steps"] == 12 and found["notes"] == {"word": "done"} and found["peak"] > 50e6 and found["cpu"] >= 0
    assert json.loads((course.folder / "start.0.json").read_text())["sent"] >= 0


def test_the_rate_falls_to_zero_before_the_end(make_course: Callable[..., Course]) -> None:
    course = make_course(steps=20, lr=0.1)
    assert course.rate(0) == pytest.approx(0.1)
    assert course.rate(17) == pytest.approx(0.0) == course.rate(19)


def test_a_pace_is_kept_and_a_straggler_sleeps(make_course: Callable[..., Course]) -> None:
    course = make_course(steps=3, pace=0.05, fault="straggler")
    course.job["sleep"]["0"] = 0.1
    began = time.monotonic()
    _train(course)
    times = read_times(course.folder / "times.0")
    assert (times[:, 1] - times[:, 0] >= 0.05).all()
    assert (times[1:, 0] - times[:-1, 1] >= 0.1).all()  # sleep is no part of a step
    assert time.monotonic() - began >= 0.45


@pytest.mark.slow
def test_processes_below_count_too() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import sys; sum(range(10**7)); print(); sys.stdin.read()"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    try:
        assert child.stdout is not None
        child.stdout.readline()
        assert {os.getpid(), child.pid} <= set(family())
        assert cpu_seconds() > time.process_time()
        assert peak_bytes() > 0
    finally:
        child.communicate()


def test_the_loopback_device_has_a_counter() -> None:
    assert sent_on_loopback() >= 0


@pytest.mark.slow
def test_a_killed_worker_leaves_its_times(make_trial: Callable[..., Trial], tmp_path: Path) -> None:
    trial = make_trial(workers=2, steps=10, fault="kill")
    job = deal(trial, SYSTEMS["local"], sys.executable, tmp_path)
    (tmp_path / "ready.0").touch()
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "drivers")}
    done = subprocess.run([sys.executable, "-m", "rivals.local", str(job), "1"], env=env, check=False)
    assert done.returncode == -9
    assert len(read_times(tmp_path / "times.1")) == 5
    assert not (tmp_path / "worker.1.json").exists()
