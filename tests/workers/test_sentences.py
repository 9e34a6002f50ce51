from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.workers import sentences

LINES: dict[str, tuple[list[str], list[str], list[int]]] = {
    "sst2": (["sentence\tlabel", 'a "fine film\t1', "dull\t0"], ['a "fine film', "dull"], [1, 0]),
    "cola": (["gj04\t1\t\tHe sang.", "gj04\t0\t*\tSang he the."], ["He sang.", "Sang he the."], [1, 0]),
    "mrpc": (
        ["\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", "1\t7\t8\tone\tsame", "0\t7\t9\ttwo\tother"],
        ["one|same", "two|other"],
        [1, 0],
    ),
    "qqp": (
        ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "1\t2\t3\twho\twhom\t1", "9\tcut", "2\t3\t4\ta\tb\t0"],
        ["who|whom", "a|b"],
        [1, 0],
    ),
    "qnli": (
        ["index\tquestion\tsentence\tlabel", "0\tq\ts\tentailment", "1\tr\tt\tnot_entailment"],
        ["q|s", "r|t"],
        [0, 1],
    ),
    "rte": (
        ["index\tsentence1\tsentence2\tlabel", "0\tq\ts\tnot_entailment", "1\tr\tt\tentailment"],
        ["q|s", "r|t"],
        [1, 0],
    ),
    "mnli": (
        [
            "index\tgenre\tsentence1\tsentence2\tlabel1\tgold_label",
            "0\tx\tq\ts\tz\tcontradiction",
            "1\tx\tr\tt\tz\tneutral",
        ],
        ["q|s", "r|t"],
        [2, 1],
    ),
}


def _write(folder: Path, task: str, times: int = 1) -> None:
    heading = isinstance(sentences.TABLES[task].label, str)
    lines = LINES[task][0]
    for name, count in (("train", times), (sentences.TABLES[task].dev, 1)):
        text = "\r\n".join([*lines[:heading], *lines[heading:] * count])
        (folder / f"{name}.tsv").write_text(f"{text}\r\n", encoding="utf-8")


@pytest.mark.parametrize("task", sentences.TABLES)
def test_each_task_is_read_as_its_files_are_written(task: str, tmp_path: Path) -> None:
    _write(tmp_path, task)
    corpus = sentences.load(task, tmp_path, 0)
    texts = (
        [f"{a}|{b}" for a, b in zip(corpus.firsts, corpus.seconds, strict=True)] if corpus.seconds else corpus.firsts
    )
    _, wanted, labels = LINES[task]
    assert texts == wanted * 2 and corpus.labels.tolist() == labels * 2
    assert corpus.train.tolist() == [0, 1] and corpus.held.tolist() == [2, 3]
    assert corpus.classes == len(sentences.TABLES[task].names)


def test_validation_comes_out_of_the_training_file(tmp_path: Path) -> None:
    _write(tmp_path, "sst2", times=20)
    corpus = sentences.load("sst2", tmp_path, 0, "val")
    assert len(corpus.held) == 2 and sorted([*corpus.train, *corpus.held]) == list(range(40))
    assert len(list(corpus.texts())) == 38


def test_a_missing_file_names_the_folder_it_belongs_to(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"train.tsv is missing: --data-dir .* dev_matched.tsv"):
        sentences.load("mnli", tmp_path, 0)


@pytest.mark.parametrize(("written", "read", "wrong"), [("sst2", "rte", "no column"), ("qnli", "sst2", "no line")])
def test_the_files_of_another_task_are_refused(tmp_path: Path, written: str, read: str, wrong: str) -> None:
    _write(tmp_path, written)
    with pytest.raises(UsageError, match=rf"train.tsv has {wrong}.* another task's") as caught:
        sentences.load(read, tmp_path, 0)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="no UTF-8 text"):
        sentences.load("sst2", tmp_path, 0)


def test_the_hub_is_asked_where_there_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    part = {"premise": ["p"], "hypothesis": ["h"], "label": [2]}
    library = ModuleType("datasets")
    asked: list[tuple[str, ...]] = []

    def load_dataset(*words: str) -> object:
        asked.append(words)
        return {"train": part, "validation_matched": part}

    library.__dict__["load_dataset"] = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", library)
    corpus = sentences.load("mnli", None, 0)
    assert asked == [("nyu-mll/glue", "mnli")]
    assert (corpus.firsts, corpus.seconds, corpus.labels.tolist()) == (["p", "p"], ["h", "h"], [2, 2])
