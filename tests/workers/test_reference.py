from __future__ import annotations

import pytest
import torch

from dagrad_bus.errors import UsageError
from dagrad_bus.workers import reference
from dagrad_bus.workers.problem import Digits, Recipe, build_model, load
from dagrad_bus.workers.shards import Batches


def _in_float64(digits: Digits) -> Digits:
    return Digits(digits.train_x.double(), digits.train_y, digits.test_x.double(), digits.test_y)


@pytest.mark.parametrize("kind", ["iid", "sorted"])
def test_the_reference_is_sgd_with_the_large_batch(kind: str) -> None:
    recipe = Recipe(model="conv", shards="sorted" if kind == "sorted" else "iid", steps=6, batch=8, schedule="none")
    digits, workers = _in_float64(load(0)), 4
    model = build_model("conv", 0).double()
    twin = build_model("conv", 0).double()
    list(reference.run(model, digits, recipe, workers))

    parts = digits.shards(recipe, workers)
    names = reference.worker_names(workers)
    streams = [Batches(part, 8, recipe.seed, name) for part, name in zip(parts, names, strict=True)]
    optimizer = torch.optim.SGD(twin.parameters(), lr=recipe.lr, momentum=recipe.momentum)
    for _ in range(6):
        batches = [digits.batch(stream.next()) for stream in streams]
        images, labels = torch.cat([one for one, _ in batches]), torch.cat([one for _, one in batches])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(twin(images), labels, label_smoothing=0.1).backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_the_reference_learns_and_is_the_same_each_time() -> None:
    recipe = Recipe(steps=60, batch=16, eval_every=30)
    first, second = (reference.train(recipe, 4) for _ in range(2))
    assert first == second
    assert [result.step for result in first] == [30, 60]
    assert first[-1].accuracy > 0.9


def test_no_workers_is_refused() -> None:
    with pytest.raises(UsageError, match="workers is 0"):
        reference.train(Recipe(), 0)


def test_the_program_prints_a_line_an_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["--workers", "2", "--steps", "4", "--eval-every", "2", "--model", "conv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["step", "2"], ["step", "4"]]


def test_a_wrong_number_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["--lr", "-1"]) == 2
    assert capsys.readouterr().err == "error: lr is -1.0: needs a rate over 0\n"
