"""Labelled images from folders or the hub, augmented as ImageNet training does it, with Pillow and torch alone.

A folder has ImageNet-1K's own form: ``train/<class>/<name>.JPEG`` and ``val/<class>/<name>.JPEG``. What happens to an
image is a function of seed, worker and the number of the draw, whichever process does it. Source of the augmentation:
Szegedy et al., Going Deeper with Convolutions, arXiv:1409.4842, section 6; figures as in torchvision.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dagrad_bus.errors import UsageError
from dagrad_bus.workers import shards
from dagrad_bus.workers.extras import load_from_hub, need

if TYPE_CHECKING:
    from PIL.Image import Image

HUB = "ILSVRC/imagenet-1k"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue in ImageNet, in 0..1."""
ENDINGS = (".jpeg", ".jpg", ".png")
CENTRE = 224 / 256
"""Side of the square that is evaluated, in units of the image's shorter side."""
VALIDATION_SHARE = 0.05
GENERATED, GENERATED_VAL = 64, 360
"""Side of a generated image; how many of the 1797 are in ``val``."""
Draw = tuple[int, int]
"""An image's number, and the number of the draw: -1 in an evaluation, which changes nothing by chance."""


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """Labelled images, and which of them train and are reported on."""

    source: Sequence[Any]
    """Of each of n images its path (:class:`Files`), or the image itself."""
    labels: NDArray[np.int64]
    """int64[n] in 0..classes - 1."""
    classes: int
    train: shards.Indices
    held: shards.Indices

    def open(self, number: int) -> Image:
        """Return an image as red, green and blue.

        Raises:
            UsageError: a file that is no image.
        """
        found = self.source[number]
        if not isinstance(found, Path):
            return cast("Image", found.convert("RGB"))
        pillow = need("PIL.Image")
        try:
            with pillow.open(found) as image:
                return cast("Image", image.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:  # Pillow's, of a damaged file
            raise UsageError(f"{found} cannot be read: {error}") from error


class Files(Sequence[Path]):
    """Paths below one folder, in one array: ImageNet's as objects take 0.4 GB in a worker and in each of its loaders."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self._root = root
        self._names = np.array([os.fsencode(name) for name in names])

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._names)

    def __getitem__(self, number: Any) -> Any:
        """Return one path."""
        return self._root / os.fsdecode(cast("bytes", self._names[number]))


class Hub(Sequence[Any]):
    """Images of two parts of a data set of the hub, one after the other; each is decoded when it is asked for."""

    def __init__(self, *parts: Any) -> None:
        self._parts = parts

    def __len__(self) -> int:
        """Return how many images there are."""
        return sum(len(part) for part in self._parts)

    def __getitem__(self, number: Any) -> Any:
        """Return one image."""
        for part in self._parts:
            if number < len(part):
                return part[int(number)]["image"]
            number -= len(part)
        raise IndexError(number)


def load(folder: Path | None, seed: int, report: Literal["test", "val"] = "test") -> Images:
    """List the images.

    Args:
        folder: holds ``train`` and ``val``; None asks the hub for ImageNet-1K.
        seed: of the samples held out.
        report: ``test`` reports on the folder ``val`` (ImageNet keeps the labels of its test part to itself), ``val`` on
            5 % of ``train``, which are then not trained on.

    Raises:
        UsageError: a folder of another form; the hub cannot be reached.
    """
    source: Sequence[Any]
    if folder is None:
        found = load_from_hub(HUB)
        parts = found["train"], found["validation"]
        source, labels = Hub(*parts), np.array([*parts[0]["label"], *parts[1]["label"]], np.int64)
        count, classes = len(parts[0]), int(labels.max()) + 1
    else:
        names = [entry.name for entry in _folders(folder / "train")]
        train, val = (_list(folder / part, names) for part in ("train", "val"))
        source, labels = Files(folder, [*train[0], *val[0]]), np.array([*train[1], *val[1]], np.int64)
        count, classes = len(train[0]), len(names)
    chosen, held = np.arange(count), np.arange(count, len(labels))
    if report == "val":
        chosen, held = shards.split(labels[:count], max(1, round(count * VALIDATION_SHARE)), seed)
    return Images(source, labels, classes, chosen, held)


def _folders(folder: Path) -> list[Path]:
    try:
        found = sorted(Path(entry) for entry in os.scandir(folder) if entry.is_dir())
    except FileNotFoundError:
        raise UsageError(f"no folder {folder}: --data-dir holds train/<class>/*.JPEG and val/<class>/*.JPEG") from None
    if not found:
        raise UsageError(f"{folder} has no folder of a class: sort its images into {folder}/<class>/ first")
    return found


def _list(folder: Path, names: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the images below a folder, as ``<folder>/<class>/<file>``, and the number of each one's class."""
    numbers = {name: number for number, name in enumerate(names)}
    files: list[str] = []
    labels: list[int] = []
    for place in _folders(folder):
        if place.name not in numbers:
            raise UsageError(f"{place} is a class that train does not have")
        found = sorted(entry.name for entry in os.scandir(place) if entry.name.lower().endswith(ENDINGS))
        files += [f"{folder.name}/{place.name}/{name}" for name in found]
        labels += [numbers[place.name]] * len(found)
    if not files:
        raise UsageError(f"no image in {folder}: needs <class>/*.JPEG")
    return files, labels


def augment(image: Image, size: int, least_area: float, rng: np.random.Generator) -> Tensor:
    """Cut a random piece out of an image, resize it and mirror it in one case of two.

    Args:
        image: red, green and blue.
        size: side of the result.
        least_area: least share of the image's area that is kept; ImageNet training takes 0.08.
        rng: chance.

    Returns:
        float32[3, size, size], normalised.
    """
    box = _random_box(image.width, image.height, least_area, rng)
    found = to_tensor(_cut(image, size, box))
    return found.flip(2) if rng.random() < 0.5 else found


def _random_box(width: int, height: int, least: float, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Return left, upper, right and lower edge of a piece: its shape is between 3:4 and 4:3."""
    for _ in range(10):
        area = width * height * rng.uniform(least, 1.0)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    return _centre_box(width, height, 1.0)


def _centre_box(width: int, height: int, share: float) -> tuple[float, float, float, float]:
    side = min(width, height) * share
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def centre(image: Image, size: int) -> Tensor:
    """Return the middle of an image as float32[3, size, size], normalised: what is evaluated."""
    return to_tensor(_cut(image, size, _centre_box(image.width, image.height, CENTRE)))


def _cut(image: Image, size: int, box: tuple[float, float, float, float]) -> Image:
    return image.resize((size, size), need("PIL.Image").Resampling.BILINEAR, box=box)


def to_tensor(image: Image) -> Tensor:
    """Return an image as float32[3, height, width], normalised by ImageNet's mean and deviation."""
    pixels = torch.from_numpy(np.asarray(image, np.float32) / 255).permute(2, 0, 1)
    return ((pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)).contiguous()


class Drawn(Dataset[tuple[Tensor, int]]):
    """Images as a model sees them; a loader's process may have a copy.

    Args:
        images: all of them.
        size: side of the results.
        least_area: see :func:`augment`.
        seed: of the run.
        name: of the worker: each sees other pieces.
    """

    def __init__(self, images: Images, size: int, least_area: float, seed: int, name: str) -> None:
        self.images, self.size, self.least_area = images, size, least_area
        self.key = seed, int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.images.labels)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int]:
        """Return one image, augmented by chance or, in draw -1, its centre; and its label."""
        number, turn = draw
        image, label = self.images.open(number), int(self.images.labels[number])
        if turn < 0:
            return centre(image, self.size), label
        return augment(image, self.size, self.least_area, np.random.default_rng([*self.key, turn])), label


class Draws:
    """An endless stream of batches of draws over one shard, for a loader."""

    def __init__(self, batches: shards.Batches) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[Draw]]:
        """Go through the batches."""
        turn = 0
        while True:
            numbers = self._batches.next().tolist()
            yield [(number, turn + place) for place, number in enumerate(numbers)]
            turn += len(numbers)


def make_data(folder: Path, seed: int = 0) -> int:
    """Write images in ImageNet's form: scikit-learn's digits, enlarged to 64 x 64, as JPEG files of ten classes.

    Returns:
        How many images were written.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UsageError("the digits come with scikit-learn: pip install 'dagrad-bus[digits]'") from None
    pillow = need("PIL.Image")
    found = cast("Any", load_digits())
    pixels, labels = cast("NDArray[np.float64]", found.images), cast("NDArray[np.int64]", found.target)
    _, val = shards.split(labels, GENERATED_VAL, seed)
    held = set(val.tolist())
    for number, label in enumerate(labels):
        name = f"n{label:08d}"
        place = folder / ("val" if number in held else "train") / name
        place.mkdir(parents=True, exist_ok=True)
        image = pillow.fromarray((pixels[number] * (255 / 16)).astype(np.uint8))
        image = image.resize((GENERATED, GENERATED), pillow.Resampling.BICUBIC).convert("RGB")
        image.save(place / f"{name}_{number}.JPEG", quality=90)
    return len(labels)
