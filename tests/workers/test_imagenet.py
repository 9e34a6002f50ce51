from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from dagrad_bus.errors import UsageError
from dagrad_bus.workers import imagenet, images
from dagrad_bus.workers.imagenet import Recipe


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of generated images."""
    folder = tmp_path_factory.mktemp("digits")
    images.make_data(folder)
    return folder


class Zero(nn.Module):
    """A model that is sure of class 0."""

    def forward(self, pixels: Tensor) -> SimpleNamespace:
        assert pixels.shape[1:] == (3, 32, 32)
        return SimpleNamespace(logits=nn.functional.one_hot(torch.zeros(len(pixels), dtype=torch.int64), 10) * 9.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("batch", 0),
        ("lr", 0.0),
        ("momentum", 1.0),
        ("least_area", 1.0),
        ("warm_up", 0.85),
        ("image_size", 8),
        ("loaders", -1),
    ],
)
def test_a_recipe_out_of_range_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{field} is {value}"):
        Recipe(**{field: value})  # type: ignore[arg-type]  # the point of the test


def test_a_size_brings_its_own_images_unless_told_otherwise() -> None:
    assert (Recipe().side, Recipe().area) == (224, 0.08)
    assert (Recipe(size="small").side, Recipe(size="small").area) == (32, 0.5)
    assert (Recipe(image_size=64, least_area=0.2).side, Recipe(image_size=64, least_area=0.2).area) == (64, 0.2)


@pytest.mark.parametrize(("warm_up", "climb"), [(0.0, 0), (0.05, 5), (0.8, 80)])
def test_the_rate_climbs_falls_along_a_cosine_and_rests(warm_up: float, climb: int) -> None:
    recipe = Recipe(steps=100, lr=0.2, warm_up=warm_up)
    rates = [recipe.rate(step) for step in range(100)]
    assert rates[:climb] == pytest.approx([0.2 * (step + 1) / (climb + 1) for step in range(climb)])
    assert rates[climb] == 0.2 and rates[climb:] == sorted(rates[climb:], reverse=True)
    assert [rate > 0 for rate in rates] == [True] * 85 + [False] * 15
    assert recipe.rate(1000) == 0.0


def test_a_single_step_has_a_rate() -> None:
    assert 0 < Recipe(steps=1, lr=0.2).rate(0) <= 0.2


def test_the_optimizer_follows_the_recipe_and_norms_do_not_decay() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    optimizer, follow = imagenet.build_optimizer(model, Recipe(steps=100, lr=0.2, warm_up=0.0))
    follow(0)
    found = [(len(g["params"]), g["lr"], g["momentum"], g["weight_decay"]) for g in optimizer.param_groups]
    assert found == [(1, 0.2, 0.9, 1e-4), (3, 0.2, 0.9, 0.0)]


def test_evaluation_is_of_the_held_out_images(digits: Path) -> None:
    recipe = Recipe(size="small", data_dir=digits)
    judge = imagenet.Judge(recipe, images.load(digits, 0))
    model = Zero().train()
    found = judge.evaluate(model, 4)
    assert model.training and found.step == 4 and len(judge.draws) == 360
    assert found.accuracy == pytest.approx(0.1, abs=0.01)


def test_a_limited_evaluation_is_of_the_same_images_each_time(digits: Path) -> None:
    found = images.load(digits, 0)
    chosen = [imagenet.Judge(Recipe(size="small", eval_limit=50, seed=seed), found).draws for seed in (1, 1, 2)]
    assert len(chosen[0]) == 50 and chosen[0] == chosen[1] != chosen[2]


def test_the_flags_describe_a_recipe() -> None:
    words = "--data-dir d --size small --image-size 48 --shards sorted --loaders 2 --report val --decay 0"
    wanted = Recipe(
        data_dir=Path("d"), size="small", image_size=48, shards="sorted", loaders=2, report="val", decay=0.0
    )
    assert imagenet.from_flags(imagenet.parse(words.split())) == wanted


def test_a_known_error_is_one_line(one_thread: None, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert imagenet.main(["--data-dir", str(tmp_path)]) == 2
    assert imagenet.main(["--lr", "0"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: no folder ") and lines[1:] == ["error: lr is 0.0: needs a rate over 0"]


def test_images_are_made_by_a_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert imagenet.main(["--make-data", str(tmp_path / "made")]) == 0
    assert capsys.readouterr().out == f"wrote 1797 images to {tmp_path / 'made'}\n"
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert imagenet.main(["--make-data", str(tmp_path / "again")]) == 2
    assert "pip install 'dagrad-bus[digits]'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_sizes_are_what_they_claim() -> None:
    with torch.device("meta"):
        base = imagenet.build_model(Recipe(), 1000)
    small = [imagenet.build_model(Recipe(size="small", seed=seed), 10) for seed in (1, 1, 2)]
    assert [sum(p.numel() for p in model.parameters()) for model in (base, small[0])] == [25_557_032, 75_290]
    flat = [nn.utils.parameters_to_vector(model.parameters()) for model in small]
    assert torch.equal(flat[0], flat[1]) and not torch.equal(flat[0], flat[2])


def _run(digits: Path, folder: Path, flags: str) -> float:
    """Train with two workers and return the accuracy of the worst."""
    program = ["-m", "dagrad_bus.workers.imagenet", "--size", "small", "--data-dir", str(digits), *flags.split()]
    options = ["--dir", str(folder), "--no-figures", "--progress", "none"]
    command = [sys.executable, "-m", "dagrad_bus.tools.cli", "run", "-n", "2", *options, *program]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["mixing"]["verdict"] == "mixed"
    return float(summary["accuracy"]["worst"])


@pytest.mark.slow
@pytest.mark.timeout(180)  # under a minute on two quiet cores
def test_a_small_resnet_learns_from_jpeg_files(digits: Path, tmp_path: Path) -> None:
    flags = "--steps 120 --lr 0.1 --eval-every 120 --loaders 2"
    assert _run(digits, tmp_path / "run", flags) > 0.6  # chance is 0.1


BATCHES = """
import sys
from hashlib import sha256
from pathlib import Path
from dagrad_bus.workers import imagenet, images, shards
found = images.load(Path(sys.argv[1]), 0)
for loaders in (0, 2):
    draws = images.Draws(shards.Batches(found.train, 16, 0, "local.0"))
    stream = imagenet.read_batches(loaders, images.Drawn(found, 32, 0.5, 0, "local.0"), draws)
    batches = [next(stream) for _ in range(4)]
    print(sha256(b"".join(part.numpy().tobytes() for batch in batches for part in batch)).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_batches_are_the_same_whoever_reads_them(digits: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", BATCHES, str(digits)], capture_output=True, text=True, check=True)
    here, there = ran.stdout.split()
    assert here == there and not ran.stderr


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("loaders", [0, 1])
def test_an_image_that_cannot_be_read_is_one_line(tmp_path: Path, loaders: int) -> None:
    for part in ("train", "val"):
        (tmp_path / part / "n1").mkdir(parents=True)
        (tmp_path / part / "n1" / "1.JPEG").write_bytes(b"no image")
    flags = ["--size", "small", "--data-dir", str(tmp_path), "--loaders", str(loaders)]
    command = [sys.executable, "-m", "dagrad_bus.workers.imagenet", *flags]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1 and ran.stderr.startswith(
        f"error: {tmp_path / 'train' / 'n1' / '1.JPEG'} cannot"
    )
