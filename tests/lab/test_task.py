from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dagrad_bus.errors import UsageError
from dagrad_bus.lab.task import MODELS, Task, load_task

SIZES = {"digits-mlp": 301_066, "digits-conv": 21_546, "digits-small": 8_970, "digits-wide": 19_210}


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("digits-small", 0, "val")


@pytest.mark.parametrize("name", list(MODELS))
def test_a_model_has_the_parameters_that_the_table_says(name: str) -> None:
    assert sum(each.numel() for each in MODELS[name](0).parameters()) == SIZES[name]


@pytest.mark.parametrize("name", ["digits-small", "digits-wide"])
def test_equal_seeds_build_equal_models_and_leave_chance_alone(name: str) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first, again, other = (nn.utils.parameters_to_vector(MODELS[name](seed).parameters()) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.rand(4), expected)


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no task 'digit': there are digits-mlp, .*digits-wide"):
        load_task("digit", 0, "val")


def test_what_is_tuned_on_is_not_what_is_published(task: Task) -> None:
    published = load_task("digits-small", 0, "test")
    seen = {row.numpy().tobytes() for row in task.test_x} | {row.numpy().tobytes() for row in task.train_x}
    assert not seen & {row.numpy().tobytes() for row in published.test_x}


def test_accuracy_is_the_share_of_right_answers_and_the_mode_of_the_model_stays(task: Task) -> None:
    class Always(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.full((len(x),), 3), 10).float()

    share = float((task.test_y == 3).double().mean())
    model = Always().train()
    accuracy, loss = task.evaluate(model)
    assert accuracy == pytest.approx(share)
    assert loss == pytest.approx(np.log(np.e + 9) - share, rel=1e-5)  # the logit is 1 for the digit 3, else 0
    assert model.training


def test_the_loss_of_chance_is_the_logarithm_of_the_classes(task: Task) -> None:
    silent = nn.Linear(64, 10)
    nn.init.zeros_(silent.weight)
    nn.init.zeros_(silent.bias)
    flat = replace(task, train_x=task.train_x.reshape(len(task.train_x), -1))
    loss = flat.loss(silent, np.arange(50), 0.1)
    assert loss.item() == pytest.approx(np.log(10), rel=1e-5)
