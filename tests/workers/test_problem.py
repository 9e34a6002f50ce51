from __future__ import annotations

import argparse

import numpy as np
import pytest
import torch

from dagrad_bus.errors import UsageError
from dagrad_bus.workers import problem
from dagrad_bus.workers.problem import Recipe


def test_the_digits_are_split_evenly_over_the_classes() -> None:
    digits = problem.load(0)
    assert digits.train_x.shape == (1437, 64) and digits.test_x.shape == (360, 64)
    assert digits.train_x.dtype == torch.float32 and digits.test_y.dtype == torch.int64
    counts = torch.bincount(digits.test_y, minlength=10)
    assert counts.min() >= 34 and counts.max() <= 38


def test_the_digits_are_those_of_sklearn() -> None:
    table = problem._read_table()
    assert table.shape == (1797, 65)
    assert (table == problem._ask_sklearn()).all()


def test_validation_samples_come_out_of_the_training_part_and_the_test_part_stays_unseen() -> None:
    whole, tuned = problem.load(0), problem.load(0, "val")
    assert tuned.train_x.shape == (1197, 64) and tuned.test_x.shape == (240, 64)
    counts = torch.bincount(tuned.test_y, minlength=10) + torch.bincount(tuned.train_y, minlength=10)
    assert torch.equal(counts, torch.bincount(whole.train_y, minlength=10))


def test_training_pixels_are_centred_and_none_is_blown_up() -> None:
    digits = problem.load(3)
    assert digits.train_x.mean(dim=0).abs().max() < 1e-5
    assert digits.train_x.std(dim=0).max() < 1.01
    assert max(digits.train_x.abs().max(), digits.test_x.abs().max()) <= 1 / problem.PIXEL_FLOOR


def test_the_split_is_a_function_of_the_seed() -> None:
    assert torch.equal(problem.load(1).test_x, problem.load(1).test_x)
    assert not torch.equal(problem.load(1).test_y, problem.load(2).test_y)


@pytest.mark.parametrize(("name", "parameters"), [("mlp", 301_066), ("conv", 21_546)])
def test_a_model_is_a_function_of_the_seed(name: problem.ModelName, parameters: int) -> None:
    state = torch.random.get_rng_state()
    models = [problem.build_model(name, seed) for seed in (5, 5, 6)]
    assert torch.equal(torch.random.get_rng_state(), state)
    flat = [torch.nn.utils.parameters_to_vector(model.parameters()) for model in models]
    assert flat[0].numel() == parameters
    assert torch.equal(flat[0], flat[1]) and not torch.equal(flat[0], flat[2])
    assert models[0](torch.zeros(3, 64)).shape == (3, 10)


def test_the_flags_describe_every_field_of_a_recipe() -> None:
    parser = argparse.ArgumentParser()
    problem.add_flags(parser)
    assert problem.from_flags(parser.parse_args([])) == Recipe()
    given = "--model conv --shards sorted --steps 7 --eval-every 3 --lr 0.5 --optimizer adam --smoothing 0.2 --seed 4"
    wanted = Recipe(
        model="conv", shards="sorted", steps=7, eval_every=3, lr=0.5, optimizer="adam", smoothing=0.2, seed=4
    )
    assert problem.from_flags(parser.parse_args(given.split())) == wanted


@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", 0), ("batch", 0), ("eval_every", 0), ("lr", 0.0), ("momentum", 1.0), ("smoothing", 1.0), ("seed", -1)],
)
def test_a_recipe_out_of_range_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{field} is {value}"):
        Recipe(**{field: value})  # type: ignore[arg-type]  # the point of the test


def test_the_last_step_is_always_evaluated() -> None:
    recipe = Recipe(steps=25, eval_every=10)
    assert [step for step in range(1, 26) if recipe.evaluates(step)] == [10, 20, 25]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_cosine_falls_to_zero_and_rests_there(optimizer: problem.OptimizerName) -> None:
    recipe = Recipe(steps=20, lr=0.1, schedule="cosine", optimizer=optimizer)
    steps, follow = problem.build_optimizer(problem.build_model("conv", 0), recipe)
    rates: list[float] = []
    for step in range(20):
        follow(step)
        steps.step()
        rates.append(steps.param_groups[0]["lr"])
    assert rates[0] == 0.1 and rates == sorted(rates, reverse=True)
    assert [rate > 0 for rate in rates] == [True] * 17 + [False] * 3


def test_a_plateau_falls_late_and_in_a_line() -> None:
    shares = [problem.rate_share("wsd", step, 100) for step in range(100)]
    assert shares[:68] == [1.0] * 68 and shares[85:] == [0.0] * 15
    assert np.diff(shares[69:85]) == pytest.approx([-1 / 17] * 15)


def test_without_a_schedule_the_rate_stays() -> None:
    steps, follow = problem.build_optimizer(problem.build_model("conv", 0), Recipe(lr=0.1, schedule="none"))
    follow(20)
    assert steps.param_groups[0]["lr"] == 0.1


def test_smoothing_raises_the_loss_of_a_model_that_is_sure() -> None:
    sure = torch.nn.Linear(10, 10, bias=False)
    with torch.no_grad():
        sure.weight.copy_(torch.eye(10) * 20)
    labels = torch.arange(10)
    plain, smooth = (Recipe(smoothing=share).loss(sure, torch.eye(10), labels) for share in (0.0, 0.1))
    assert plain < 1e-3 and smooth > 1.0


def test_evaluation_leaves_mode_and_gradients_alone() -> None:
    model, digits = problem.build_model("mlp", 0), problem.load(0)
    found = problem.evaluate(model.train(), digits, 7)
    assert model.training and found.step == 7 and 0.0 <= found.accuracy <= 0.3
    assert found.loss == pytest.approx(2.3, abs=0.2)
    assert all(parameter.grad is None for parameter in model.parameters())
