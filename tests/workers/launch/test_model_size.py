from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.errors import UsageError
from dagrad_bus.workers.launch.model_size import MOST, ModelSize, measure, read_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("301066", 301066), ("25.6M", 25_600_000), ("1.1e8", 110_000_000), ("7B", 7 * 10**9), ("1_000k", 10**6),
     ("110m", 110_000_000), (" 2 G ", 2 * 10**9)],
)  # fmt: skip
def test_numbers_in_every_form(text: str, size: int) -> None:
    assert read_size(text) == ModelSize(text, size)


@given(st.integers(1, MOST))
@settings(max_examples=50)
def test_a_plain_number_is_itself(size: int) -> None:
    assert read_size(str(size)).elements == size


@pytest.mark.parametrize("text", ["", "x", "1x", "0", "-3", "0.1", "9e99", "a b:c", "nosuch.safetensors"])
def test_what_is_no_model_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        read_size(text)


def _write(path: Path, header: Mapping[str, object]) -> Path:
    data = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(data)) + data)
    return path


def test_a_safetensors_file_is_read_by_its_header(tmp_path: Path) -> None:
    def tensor(dtype: str, *shape: int) -> dict[str, object]:
        return {"dtype": dtype, "shape": list(shape), "data_offsets": [0, 0]}

    header = {"__metadata__": {"a": "b"}, "w": tensor("F32", 30, 20), "b": tensor("F32"), "n": tensor("I64", 5)}
    path = _write(tmp_path / "m.safetensors", header)
    assert read_size(str(path)) == ModelSize(str(path), 601, 5, is_copied=False)
    half = _write(tmp_path / "h.safetensors", {"w": tensor("BF16", 7)})
    assert read_size(str(half)).is_copied
    for bad in ({"n": tensor("I64", 5)}, {"w": {"shape": [1]}}, {"w": 1}):
        with pytest.raises(UsageError):
            read_size(str(_write(tmp_path / "bad.safetensors", bad)))
    (tmp_path / "cut.safetensors").write_bytes(b"abc")
    with pytest.raises(UsageError, match="no safetensors file"):
        read_size(str(tmp_path / "cut.safetensors"))


@pytest.mark.slow  # imports torch
def test_a_factory_is_measured_as_attach_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["from torch import nn", "", "class Models:", "    @staticmethod", "    def small():",
             "        model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))",
             "        model[2].requires_grad_(False)", "        return model", ""]  # fmt: skip
    (tmp_path / "model_of_test.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    found = measure("model_of_test:Models.small")
    assert (found.elements, found.integers, found.is_copied) == (8 + 4 + 4, 1, False)  # the frozen layer stays at home


@pytest.mark.slow
def test_a_factory_is_called_in_a_child() -> None:
    assert read_size("torch.nn:Transformer").elements == 44_140_544
    with pytest.raises(UsageError, match="No module named 'nosuch'"):
        read_size("nosuch:build")
