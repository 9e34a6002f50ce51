from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dagrad_bus.errors import StartError
from dagrad_bus.workers.launch.hostfile import Host
from dagrad_bus.workers.launch.rsync import copy_to_hosts, rsync_words


def host(name: str, **given: object) -> Host:
    return Host(**{"label": name, "host": name, "slot_numbers": (0,), **given})  # type: ignore[arg-type]  # by keyword


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for rsync that writes its arguments down."""
    path = tmp_path / "bin" / "rsync"
    path.parent.mkdir()
    path.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/said\ncase "$*" in *broken*) echo "broken pipe" >&2; exit 12;; esac\n'
    )
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    return tmp_path / "said"


def test_the_plain_line() -> None:
    words = rsync_words(Path("/src/my code"), host("node1"))
    assert words[:4] == ["rsync", "-a", "-e", words[3]]
    assert words[3].startswith("ssh -T -o BatchMode=yes") and "--" not in words[3].split() and "node1" not in words[3]
    assert words[4:] == [
        *("--rsync-path", "mkdir -p '/src/my code/' && rsync"), *("--", "/src/my code/", "node1:/src/my code/"),
    ]  # fmt: skip


def test_user_port_and_configuration_go_the_way_of_ssh() -> None:
    words = rsync_words(Path("/src"), host("node1", user="ann", port=2222), config=Path("my cfg"))
    assert words[3].endswith("-F 'my cfg' -p 2222")
    assert words[-1] == "ann@node1:/src/"


def test_an_ipv6_address_is_in_brackets_and_its_user_is_not() -> None:
    assert rsync_words(Path("/src"), host("fe80::1"))[-1] == "[fe80::1]:/src/"
    assert rsync_words(Path("/src"), host("fe80::1", user="ann"))[-1] == "ann@[fe80::1]:/src/"


def test_a_relative_folder_is_the_one_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert rsync_words(Path("code"), host("node1"))[-2:] == [f"{tmp_path}/code/", f"node1:{tmp_path}/code/"]


def test_each_remote_host_gets_it_and_this_one_has_it(program: Path) -> None:
    copy_to_hosts(Path("/src"), [host("localhost"), host("node1"), host("node2")])
    assert sorted(line.split()[-1] for line in program.read_text().splitlines()) == ["node1:/src/", "node2:/src/"]


def test_all_that_failed_are_named(program: Path) -> None:
    with pytest.raises(StartError) as failure:
        copy_to_hosts(Path("/src"), [host("broken1"), host("node1"), host("broken2")])
    assert str(failure.value).splitlines()[1:] == ["broken1: broken pipe", "broken2: broken pipe"]


def test_a_failure_without_words_is_one_too(program: Path) -> None:
    (program.parent / "bin" / "rsync").write_text("#!/bin/sh\nexit 23\n")
    with pytest.raises(StartError, match="node1: rsync exited with 23"):
        copy_to_hosts(Path("/src"), [host("node1")])


def test_without_rsync_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StartError, match="node1: cannot run rsync: No such file"):
        copy_to_hosts(Path("/src"), [host("node1")])


def test_the_shell_of_the_other_side_makes_the_folder(tmp_path: Path) -> None:
    target = tmp_path / "it's new" / "code"
    remote = rsync_words(target, host("node1"))[5]
    subprocess.run(["sh", "-c", remote.removesuffix(" && rsync")], check=True)
    assert target.is_dir()
