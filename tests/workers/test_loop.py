from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dagrad_bus.errors import UsageError
from dagrad_bus.rendezvous import Address, publish
from dagrad_bus.settings import Settings
from dagrad_bus.workers import loop


@pytest.mark.parametrize(
    ("text", "wanted"), [("local.0:0.2", ("local.0", 0.2)), ("a:b:3", ("a:b", 3.0))], ids=["plain", "colon in the name"]
)
def test_a_fault_is_a_worker_and_a_number(text: str, wanted: tuple[str, float]) -> None:
    assert loop.parse_fault(text) == wanted


@pytest.mark.parametrize("text", ["local.0", ":3", "local.0:", "local.0:x", "local.0:-1", "local.0:0"])
def test_another_form_of_fault_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="needs WORKER:NUMBER"):
        loop.parse_fault(text)


def test_a_straggler_sleeps_after_each_of_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    faults = loop.Faults(sleep={"local.1": 0.2})
    for step in (1, 2):
        for name in ("local.0", "local.1"):
            faults.strike(name, step, began=0.0)
    assert slept == [0.2, 0.2]


def test_a_pace_fills_each_step_up_to_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    for began in (99.75, 99.0):
        loop.Faults(pace=0.5).strike("local.0", 1, began)
    assert slept == [0.25]


def test_the_mean_of_the_finals_needs_them_all(tmp_path: Path) -> None:
    members = ("local.0", "local.1")
    for number, name in enumerate(members):
        assert loop.mean_of_finals(tmp_path, members) is None
        model = nn.Linear(2, 1)
        with torch.no_grad():
            model.weight.fill_(number)
            model.bias.fill_(10.0)
        loop.leave_final(tmp_path, name, model)
    mean = loop.mean_of_finals(tmp_path, members)
    assert mean is not None and mean.tolist() == [0.5, 0.5, 10.0]


def test_work_other_than_training_says_what_came_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> str:
        raise UsageError("no npm here")

    assert loop.prepare(lambda: "wrote it") == 0
    assert loop.prepare(fail) == 2
    said = capsys.readouterr()
    assert said.out == "wrote it\n"
    assert said.err == "error: no npm here\n"


def test_without_members_there_is_no_mean(tmp_path: Path) -> None:
    assert loop.mean_of_finals(tmp_path, ()) is None


def test_a_final_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for size in (3, 2):
        written = loop.leave_final(tmp_path, "local.0", nn.Linear(size, 1))
        assert np.load(written).shape == (size + 1,)
    assert [file.name for file in written.parent.iterdir()] == ["local.0.npy"]


def test_the_start_waits_for_all_addresses_and_not_for_ever(tmp_path: Path) -> None:
    members = ("local.0", "local.1")
    settings = Settings(name="local.0", members=members, directory=tmp_path)
    end = "tcp://127.0.0.1:4000"
    for name in members:
        assert not loop.wait_for_all(settings, 0.05)
        publish(tmp_path, Address(name=name, pid=1, epoch=1, inbox=end, beat=end))
    assert loop.wait_for_all(settings, 0.05)


def test_a_member_without_others_waits_for_nobody(tmp_path: Path) -> None:
    assert loop.wait_for_all(Settings(name="local.0", members=("local.0",), directory=tmp_path), 0.0)


def test_without_a_run_folder_nobody_is_waited_for() -> None:
    assert loop.wait_for_all(Settings(), 60.0)


def test_a_worker_mixes_on_until_the_others_are_done(tmp_path: Path) -> None:
    members = ("local.0", "local.1")
    settings = Settings(name="local.0", members=members, directory=tmp_path)
    taken: list[int] = []

    def step() -> None:
        taken.append(1)
        if len(taken) == 3:
            (tmp_path / "done" / "local.1").touch()

    assert loop.mix_until_all_are_done(tmp_path, settings, step, 60.0) == len(taken) == 3
    assert loop.mix_until_all_are_done(tmp_path, settings, step, 60.0) == 0


def test_a_worker_does_not_linger_for_ever(tmp_path: Path) -> None:
    settings = Settings(name="local.0", members=("local.0", "local.1"), directory=tmp_path)
    assert loop.mix_until_all_are_done(tmp_path, settings, lambda: None, 0.0) == 0


def test_step_times_are_told_once_and_gaps_include_the_pauses() -> None:
    times = loop.StepTimes()
    for began in (0.0, 0.110, 0.130):
        times.note(began, began + 0.010)
    found = times.take()
    assert found["step_p50_ms"] == pytest.approx(10.0)
    assert found["step_gap_ms"] == pytest.approx(110.0)
    times.note(5.0, 5.020)
    assert times.take() == {"step_p50_ms": pytest.approx(20.0), "step_p99_ms": pytest.approx(20.0), "step_gap_ms": 0.0}


def test_hooks_around_the_exchange_measure_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 10.25])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    times = loop.StepTimes()
    times.open_exchange()
    times.close_exchange()
    times.note(9.5, 10.5)
    found = times.take()
    assert found["exchange_ms"] == pytest.approx(250.0) and found["exchange_share"] == pytest.approx(0.25)


def test_a_final_holds_the_statistics_of_batch_normalisation(tmp_path: Path) -> None:
    model, twin = (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)) for _ in range(2))
    model(torch.randn(8, 2))
    mean = np.load(loop.leave_final(tmp_path, "local.0", model))
    assert mean.shape == (9 + 6 + 6,)
    loop.load_flat(twin, torch.from_numpy(mean))
    state = model.state_dict()
    assert all(
        torch.equal(value, state[name]) for name, value in twin.state_dict().items() if value.is_floating_point()
    )


def test_the_peak_of_memory_is_that_of_this_process() -> None:
    assert 20e6 < loop.peak_memory() < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
