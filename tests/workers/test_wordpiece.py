from __future__ import annotations

from pathlib import Path

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.workers import wordpiece

TEXTS = ["cheap watches, buy now", "the meeting is at noon", "buy cheap", "the watches meet"] * 3


def test_a_vocabulary_is_learned_once_and_then_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = wordpiece.learn_once(TEXTS, 60, tmp_path, 8)
    monkeypatch.setattr(wordpiece, "learn", None)  # calling it again would fail
    second = wordpiece.learn_once(TEXTS, 60, tmp_path, 8)
    assert 30 < len(first) == len(second) <= 60
    encoded = first.encode(["Cheap watches"])["input_ids"]
    assert encoded.tolist() == second.encode(["cheap WATCHES"])["input_ids"].tolist()
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_other_texts_get_a_vocabulary_of_their_own(tmp_path: Path) -> None:
    wordpiece.learn_once(TEXTS, 60, tmp_path, 8)
    wordpiece.learn_once(TEXTS[:-1], 60, tmp_path, 8)
    assert len(list(tmp_path.glob("wordpiece-60-*.json"))) == 2


def _vocabulary(tmp_path: Path) -> Path:
    (tmp_path / "vocab.txt").write_text("\n".join([*wordpiece.SPECIAL, "a", "b", "##b", "c"]))
    return tmp_path


def test_texts_are_padded_and_cut(tmp_path: Path) -> None:
    found = wordpiece.read(_vocabulary(tmp_path), 5).encode(["a bb c a", "A"])
    assert found["input_ids"].tolist() == [[2, 5, 6, 7, 3], [2, 5, 3, 0, 0]]
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]


def test_the_second_of_a_pair_has_type_one(tmp_path: Path) -> None:
    found = wordpiece.read(_vocabulary(tmp_path) / "vocab.txt", 9).encode(["a"], ["b x"])
    assert found["input_ids"].tolist() == [[2, 5, 3, 6, 1, 3]]
    assert found["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1]]


def test_without_a_vocabulary_the_forms_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"needs a vocab.txt, a tokenizer.json or a folder"):
        wordpiece.read(tmp_path, 8)


@pytest.mark.parametrize(
    ("name", "text", "wrong"), [("vocab.txt", "a\nb", r"no \[PAD\], \[UNK\]"), ("x.json", "{", "cannot be read")]
)
def test_another_kind_of_vocabulary_is_refused(tmp_path: Path, name: str, text: str, wrong: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=wrong):
        wordpiece.read(tmp_path / name, 8)
