from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.paper.workloads import FLAGS, WORKLOADS, find_workload
from dagrad_bus.lab.task import MODELS


def test_flags_are_those_of_the_program() -> None:
    words = find_workload("digits").words({"lr": 0.1, "eval_every": 5})
    assert words == ["--lr", "0.1", "--eval-every", "5"]


def test_a_flag_that_a_program_has_not_is_refused() -> None:
    with pytest.raises(UsageError, match="no flag for warmth"):
        find_workload("digits").words({"warmth": 1})


def test_an_unknown_workload_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="no workload 'cats': there are digits"):
        find_workload("cats")


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKLOADS)
def test_the_program_of_a_workload_knows_its_flags(name: str) -> None:
    workload = WORKLOADS[name]
    if importlib.util.find_spec(workload.module) is None:
        pytest.skip(f"{workload.module} is not there")
    done = subprocess.run([sys.executable, "-m", workload.module, "--help"], capture_output=True, text=True, check=True)
    words = [word for word in (*workload.flags.values(), *workload.fixed) if word.startswith("--")]
    unknown = [word for word in words if word not in done.stdout]
    assert unknown == ([] if workload.data else ["--data-dir"])


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_is_whole(name: str) -> None:
    workload = WORKLOADS[name]
    assert workload.models and workload.batch > 0 and workload.steps > 0
    assert list(workload.rates) == sorted(workload.rates) and len(workload.rates) > 1
    assert set(workload.flags) == set(FLAGS) | ({"schedule"} if workload.schedule else set())
    assert set(workload.virtual) <= set(workload.models)
    assert set(workload.virtual.values()) <= set(MODELS)
