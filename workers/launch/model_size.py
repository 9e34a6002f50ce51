"""How large a model is: from a number, a safetensors file's header, or a factory that a child process calls.

    python -m dagrad_bus.workers.launch.model_size MODULE:FACTORY

prints the last as JSON. Only that child imports torch.
"""

from __future__ import annotations

import importlib
import json
import math
import re
import struct
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dagrad_bus.errors import UsageError

_NUMBER = re.compile(r"(\d+(?:[._]\d+)*(?:\.\d+)?(?:[eE]\+?\d+)?)\s*([kKmMgGbBtT]?)")
_SCALES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "t": 10**12}
_FLOATS = re.compile(r"(?:F|BF|F8_).*")
_MOST_HEADER = 100 << 20
_PATIENCE = 300
MOST = 1 << 42
"""Elements: no model is larger."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What a model exchanges."""

    source: str
    elements: int
    """P: floating elements of trainable parameters and saved buffers."""
    integers: int = 0
    """Integer elements; they travel in every 256th exchange."""
    is_copied: bool = False
    """Whether the replica needs a float32 copy, as for bfloat16 models."""


def read_size(text: str) -> ModelSize:
    """Return the size that ``text`` names: ``25.6M``, ``1.1e8``, ``FILE.safetensors`` or ``module:factory``.

    Raises:
        UsageError: it names none.
    """
    if text.endswith(".safetensors") or Path(text).is_file():
        return read_safetensors(Path(text))
    if found := _NUMBER.fullmatch(text.strip()):
        size = round(float(found[1].replace("_", "")) * _SCALES[found[2].lower()])
        if not 1 <= size <= MOST:
            raise UsageError(f"--model is {text!r}: needs 1 to {MOST} parameters")
        return ModelSize(text, size)
    if re.fullmatch(r"[\w.]+:[\w.]+", text):
        return call_factory(text)
    raise UsageError(f"--model is {text!r}: needs a number (25.6M, 1.1e8), FILE.safetensors, or module:factory")


def read_safetensors(path: Path) -> ModelSize:
    """Return the size of the model in a safetensors file, from its header alone.

    Raises:
        UsageError: it is none.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _MOST_HEADER:
                raise ValueError("its header is too long")
            header: dict[str, Any] = json.loads(file.read(length))
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        sizes = [(str(entry["dtype"]), math.prod(int(one) for one in entry["shape"])) for entry in tensors]
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise UsageError(f"{path} is no safetensors file: {error}") from None
    elements = sum(size for dtype, size in sizes if _FLOATS.fullmatch(dtype))
    if not elements:
        raise UsageError(f"{path} holds no floating values")
    integers = sum(size for dtype, size in sizes if dtype[0] in "IU")
    return ModelSize(str(path), elements, integers, any(dtype != "F32" for dtype, _ in sizes if _FLOATS.match(dtype)))


def call_factory(text: str) -> ModelSize:
    """Return the size of the model that ``module:factory`` makes, in a child process.

    Raises:
        UsageError: it makes none; the message is what the child said last.
    """
    words = [sys.executable, "-m", "dagrad_bus.workers.launch.model_size", text]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        raise UsageError(f"{text} made no model within {_PATIENCE} s") from None
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UsageError(f"{text} makes no model: {last}")
    return ModelSize(**json.loads(lines[-1]))


def measure(text: str) -> ModelSize:
    """Call the factory in this process; imports torch."""
    from dagrad_bus.attach.collect import collect, unwrapped

    module, _, name = text.partition(":")
    made: Any = importlib.import_module(module)
    for part in name.split("."):
        made = getattr(made, part)
    floating, integer = collect(unwrapped(made()))
    elements = sum(slot.tensor.numel() for slot in floating)
    integers = sum(slot.tensor.numel() for slot in integer)
    return ModelSize(text, elements, integers, any(str(slot.dtype) != "torch.float32" for slot in floating))


if __name__ == "__main__":
    sys.path.insert(0, "")
    print(json.dumps(asdict(measure(sys.argv[1]))))
