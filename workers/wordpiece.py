"""Text to numbers for BERT: a vocabulary from files, or one learned from the corpus and kept beside it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dagrad_bus.errors import UsageError
from dagrad_bus.workers.extras import need

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class WordPiece:
    """A tokenizer of BERT's kind: lower case, words cut into known pieces, ``[CLS] a [SEP]`` or ``[CLS] a [SEP] b [SEP]``.

    Args:
        tokenizer: of the library ``tokenizers``, with the special tokens in its vocabulary.
        length: most tokens of a text or a pair; longer ones are cut.

    Raises:
        UsageError: the vocabulary lacks a special token.
    """

    def __init__(self, tokenizer: Any, length: int) -> None:
        missing = [token for token in SPECIAL[:4] if tokenizer.token_to_id(token) is None]
        if missing:
            raise UsageError(f"the vocabulary has no {', '.join(missing)}: needs one of BERT's kind")
        pad, _, begin, end = (tokenizer.token_to_id(token) for token in SPECIAL[:4])
        tokenizer.post_processor = need("tokenizers.processors").TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", begin), ("[SEP]", end)],
        )
        tokenizer.enable_truncation(length)
        tokenizer.enable_padding(pad_id=pad, pad_token="[PAD]")
        self._tokenizer = tokenizer

    def __len__(self) -> int:
        """Return how many numbers there are."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, firsts: Sequence[str], seconds: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Encode n texts, or pairs, padded to the longest.

        Returns:
            ``input_ids``, ``attention_mask`` and ``token_type_ids``, int64[n, l] each.
        """
        texts = list(firsts) if seconds is None else list(zip(firsts, seconds, strict=True))
        found = self._tokenizer.encode_batch(texts)
        return {
            "input_ids": torch.tensor([one.ids for one in found]),
            "attention_mask": torch.tensor([one.attention_mask for one in found]),
            "token_type_ids": torch.tensor([one.type_ids for one in found]),
        }


def read(path: Path, length: int) -> WordPiece:
    """Read a vocabulary: ``vocab.txt``, one piece a line, ``tokenizer.json``, or a folder with one of them.

    Raises:
        UsageError: there is none.
    """
    files = [path / "tokenizer.json", path / "vocab.txt"] if path.is_dir() else [path]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise UsageError(f"--tokenizer {path}: needs a vocab.txt, a tokenizer.json or a folder with one of them")
    try:
        if file.suffix == ".json":
            return WordPiece(need("tokenizers").Tokenizer.from_file(str(file)), length)
        pieces = {piece: number for number, piece in enumerate(file.read_text(encoding="utf-8").splitlines())}
    except UsageError:
        raise
    except Exception as error:  # the library raises nothing narrower
        raise UsageError(f"--tokenizer {file} cannot be read: {error}") from error
    return WordPiece(_bare(pieces), length)


def _bare(pieces: dict[str, int] | None = None) -> Any:
    """Return a tokenizer of ``tokenizers`` that cleans and cuts as BERT's own does."""
    library = need("tokenizers")
    tokenizer = library.Tokenizer(library.models.WordPiece(pieces, unk_token="[UNK]"))
    tokenizer.normalizer = library.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = library.decoders.WordPiece()
    return tokenizer


def learn(texts: Iterable[str], size: int) -> Any:
    """Return a tokenizer of ``tokenizers`` whose vocabulary, of at most ``size`` pieces, was learned from texts."""
    tokenizer = _bare()
    trainer = need("tokenizers").trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def learn_once(texts: Sequence[str], size: int, folder: Path, length: int) -> WordPiece:
    """Learn a vocabulary and keep it in ``folder``; whoever comes later, or waits meanwhile, reads it.

    All workers of a run must number pieces alike, and the library does not promise to learn the same twice. So one
    learns, under a lock, and the others read its file; hosts without a common folder need a copy of it.
    """
    digest = blake2b("\n".join(texts).encode(), digest_size=6).hexdigest()
    file = folder / f"wordpiece-{size}-{digest}.json"
    with (folder / f"{file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the others wait here while one learns
        if not file.exists():
            temporary = file.with_suffix(f".{os.getpid()}")
            learn(texts, size).save(str(temporary))
            temporary.replace(file)
    return read(file, length)
