from __future__ import annotations

import sys
from collections import Counter
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from dagrad_bus.errors import UsageError
from dagrad_bus.workers import images, shards


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of generated images."""
    folder = tmp_path_factory.mktemp("digits")
    images.make_data(folder)
    return folder


def _write(file: Path, width: int = 40, height: int = 30, colour: tuple[int, int, int] = (255, 0, 0)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), colour).save(file)


def _folder(tmp_path: Path, train: int = 20) -> Path:
    for name in ("n1", "n2"):
        for number in range(train):
            _write(tmp_path / "train" / name / f"{number:03}.JPEG")
        _write(tmp_path / "val" / name / "000.jpg")
        (tmp_path / "val" / name / "notes.txt").touch()
    return tmp_path


def _gradient(width: int = 64, height: int = 48) -> Image.Image:
    """An image whose red tells the column and whose green tells the row."""
    columns, rows = np.meshgrid(np.arange(width) * 255 // (width - 1), np.arange(height) * 255 // (height - 1))
    return Image.fromarray(np.stack([columns, rows, np.zeros_like(rows)], axis=-1).astype(np.uint8))


def test_folders_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    found = images.load(_folder(tmp_path), 0)
    assert found.classes == 2 and found.labels.tolist() == [0] * 20 + [1] * 20 + [0, 1]
    assert found.train.tolist() == list(range(40)) and found.held.tolist() == [40, 41]
    assert found.open(0).size == (40, 30)


def test_validation_images_come_out_of_the_training_part(tmp_path: Path) -> None:
    found = images.load(_folder(tmp_path), 0, "val")
    assert found.labels[found.held].tolist() == [0, 1]
    assert sorted([*found.train, *found.held]) == list(range(40))


def test_folders_of_another_form_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no folder .*train: --data-dir holds train/<class>"):
        images.load(tmp_path, 0)
    _write(tmp_path / "train" / "n1" / "0.JPEG")
    _write(tmp_path / "val" / "0.JPEG")
    with pytest.raises(UsageError, match=r"val has no folder of a class: sort its images"):
        images.load(tmp_path, 0)
    (tmp_path / "val" / "n1").mkdir()
    with pytest.raises(UsageError, match=r"no image in .*val"):
        images.load(tmp_path, 0)
    (tmp_path / "val" / "n2").mkdir()
    with pytest.raises(UsageError, match=r"n2 is a class that train does not have"):
        images.load(tmp_path, 0)


def test_paths_are_kept_as_bytes_and_sent_to_loaders_as_few(tmp_path: Path) -> None:
    names = [f"train/n{number % 7:08}/n{number % 7:08}_{number}.JPEG" for number in range(10_000)]
    files = images.Files(tmp_path, names)
    assert (
        len(files) == 10_000
        and files[9_999] == tmp_path / names[9_999]
        and files[np.int64(3)].name == "n00000003_3.JPEG"
    )
    assert len(bytes(ForkingPickler.dumps(files))) < 60 * len(files)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(40)], ids=["empty", "text", "cut"])
def test_a_damaged_file_of_any_kind_is_one_error(tmp_path: Path, content: bytes) -> None:
    found = images.load(_folder(tmp_path), 0)
    (tmp_path / "train" / "n1" / "001.JPEG").write_bytes(content)
    with pytest.raises(UsageError, match=r"001\.JPEG cannot be read"):
        found.open(1)


def test_grey_images_become_red_green_and_blue(tmp_path: Path) -> None:
    _folder(tmp_path)
    Image.new("L", (8, 8), 128).save(tmp_path / "train" / "n1" / "000.JPEG")
    assert images.load(tmp_path, 0).open(0).mode == "RGB"


def test_the_centre_keeps_the_middle_and_its_proportions() -> None:
    found = images.centre(_gradient(), 32)
    back = found * torch.tensor(images.DEVIATION).view(3, 1, 1) + torch.tensor(images.MEAN).view(3, 1, 1)
    assert found.shape == (3, 32, 32) and found.dtype == torch.float32
    columns, rows = back[0].mean(dim=0), back[1].mean(dim=1)
    assert columns.mean() == pytest.approx(0.5, abs=0.02) and rows.mean() == pytest.approx(0.5, abs=0.02)
    assert rows[-1] - rows[0] == pytest.approx(images.CENTRE, abs=0.05)  # of the shorter side
    assert columns[-1] - columns[0] == pytest.approx(images.CENTRE * 48 / 64, abs=0.05)


def test_pieces_are_drawn_from_the_whole_image_and_half_are_mirrored() -> None:
    rng = np.random.default_rng(0)
    found = [images.augment(_gradient(), 8, 0.08, rng) for _ in range(200)]
    assert all(piece.shape == (3, 8, 8) for piece in found)
    mirrored = sum(bool(piece[0, 0, 0] > piece[0, 0, -1]) for piece in found)
    assert 70 < mirrored < 130
    spans = [float((piece[1, -1] - piece[1, 0]).mean()) * images.DEVIATION[1] for piece in found]
    assert min(spans) > 0 and min(spans) < 0.4 and max(spans) > 0.8


def test_a_piece_has_the_area_and_shape_that_it_may_have() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        left, top, right, bottom = images._random_box(200, 100, 0.25, rng)
        assert 0 <= left < right <= 200 and 0 <= top < bottom <= 100
        assert 0.24 < (right - left) * (bottom - top) / 20_000 <= 1.0
        assert 0.73 < (right - left) / (bottom - top) < 1.37


def test_an_image_too_long_for_any_piece_gives_its_middle() -> None:
    assert images._random_box(1000, 10, 0.9, np.random.default_rng(0)) == (495, 0, 505, 10)


def test_a_draw_is_a_function_of_seed_worker_and_number(digits: Path) -> None:
    found = images.load(digits, 0)
    same, other, elsewhere = (images.Drawn(found, 32, 0.08, 0, name) for name in ("local.0", "local.0", "local.1"))
    first, label = same[5, 3]
    assert torch.equal(first, other[5, 3][0]) and label == found.labels[5]
    assert not torch.equal(first, same[5, 4][0]) and not torch.equal(first, elsewhere[5, 3][0])
    assert torch.equal(same[5, -1][0], elsewhere[5, -1][0])
    assert len(same) == 1797


def test_draws_are_numbered_through() -> None:
    stream = iter(images.Draws(shards.Batches(np.array([4, 9]), 3, 0, "local.0")))
    draws = [*next(stream), *next(stream)]
    assert [turn for _, turn in draws] == [0, 1, 2, 3, 4, 5]
    assert {number for number, _ in draws} == {4, 9}


def test_generated_images_are_the_digits_in_ten_folders(digits: Path) -> None:
    counts = Counter(f"{file.parts[-3]} {file.parts[-2]}" for file in digits.rglob("*.JPEG"))
    assert sum(counts.values()) == 1797
    assert sum(count for name, count in counts.items() if name.startswith("val")) == 360
    assert len(counts) == 20 and min(counts.values()) >= 34
    zero = np.asarray(Image.open(digits / "train" / "n00000000" / "n00000000_0.JPEG"))
    assert zero.shape == (64, 64, 3) and zero[28:36, 28:36].mean() < 60 < zero[:, 22:28].max()


def test_the_hub_is_asked_where_there_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    class Part(dict[str, list[object]]):
        """A part of a data set, by column or by row."""

        def __len__(self) -> int:
            return len(super().__getitem__("label"))

        def __getitem__(self, key: object) -> object:  # type: ignore[override]  # two ways to ask, as in the library
            if isinstance(key, int):
                return {"image": Image.new("L", (key + 1, 1))}
            return super().__getitem__(str(key))

    library = ModuleType("datasets")

    def load_dataset(name: str) -> dict[str, Part]:
        assert name == images.HUB
        return {"train": Part(label=[0, 2]), "validation": Part(label=[1])}

    library.__dict__["load_dataset"] = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", library)
    found = images.load(None, 0)
    assert (found.classes, found.labels.tolist(), found.held.tolist()) == (3, [0, 2, 1], [2])
    assert [found.open(number).width for number in range(3)] == [1, 2, 1]
    with pytest.raises(IndexError):
        found.open(3)
