from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import stat
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from dagrad_bus.errors import StartError, UsageError
from dagrad_bus.workers.launch.quarters import (
    BASE_NAME,
    Quarters,
    clear,
    find,
    forget_key,
    furnish,
    keep_fresh,
    open_socket,
    peer_uid,
    prepare,
    remove_socket,
    take_lock,
)

RUN = "0123456789abcdef"


@pytest.fixture
def base() -> Generator[Path]:
    """A short path: that of a socket is limited."""
    with tempfile.TemporaryDirectory(prefix="dg", dir="/tmp") as path:
        yield Path(path) / "b"


@pytest.fixture
def quarters(base: Path) -> Quarters:
    return find(RUN, "n1", {BASE_NAME: str(base)})


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_is_ours_alone_whatever_the_umask(quarters: Quarters, base: Path) -> None:
    former = os.umask(0)
    try:
        prepare(quarters)
        folder = furnish(quarters.path, key="secret", roster=["n1.0", "n2.0"])
    finally:
        os.umask(former)
    assert [mode(path) for path in (base, base / RUN, base / RUN / "n1", folder.key)] == [0o700, 0o700, 0o700, 0o600]
    assert (folder.key.read_text(), folder.roster.read_text()) == ("secret\n", "n1.0\nn2.0\n")
    prepare(quarters)  # once more changes nothing
    furnish(quarters.path, key="other", roster=[])
    assert (folder.key.read_text(), mode(folder.key)) == ("other\n", 0o600)


def test_a_fresh_file_was_read_just_now_and_written_when_it_was(quarters: Quarters) -> None:
    prepare(quarters)
    folder = furnish(quarters.path, key="secret", roster=["n1.0"])
    peer = quarters.path / "peers" / "n1.0.json"
    peer.write_text("{}")
    (quarters.path / "dangling").symlink_to("nowhere")
    for path in (folder.key, peer):
        os.utime(path, (1.0, 2.0))
    keep_fresh(quarters)
    for path in (folder.key, peer):
        assert path.stat().st_atime > 1e9 and path.stat().st_mtime == 2.0
    keep_fresh(find(RUN, "gone", {BASE_NAME: str(quarters.path.parent.parent)}))


def test_by_default_it_is_below_tmp() -> None:
    assert find(RUN, "n1", {}).path == Path(f"/tmp/dagrad-{os.getuid()}/{RUN}/n1")


@pytest.mark.parametrize("name", ["..", "a/b", "", ".x", "a\nb", "x" * 65])
def test_no_name_leads_elsewhere(name: str) -> None:
    with pytest.raises(UsageError, match="host is"):
        find(RUN, name, {})
    with pytest.raises(UsageError, match="run is"):
        find(name, "n1", {})


@pytest.mark.parametrize("level", [0, 1, 2])
def test_what_others_prepared_is_refused(quarters: Quarters, level: int, base: Path, tmp_path: Path) -> None:
    path = [base, base / RUN, quarters.path][level]
    for above in [base, base / RUN][:level]:
        above.mkdir(mode=0o700)
    path.symlink_to(tmp_path)
    with pytest.raises(StartError, match="a link is not followed"):
        prepare(quarters)
    path.unlink()
    path.mkdir(mode=0o755)
    with pytest.raises(StartError, match="open to other users"):
        prepare(quarters)
    path.rmdir()
    path.write_text("")
    with pytest.raises(StartError, match=r"File exists|no folder"):
        prepare(quarters)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_another_users_folder_is_refused(quarters: Quarters, base: Path) -> None:
    base.mkdir(mode=0o700)
    os.chown(base, 12345, -1)
    with pytest.raises(StartError, match="belongs to user 12345"):
        prepare(quarters)


def test_clearing_leaves_what_is_not_ours_or_to_be_kept(quarters: Quarters, base: Path) -> None:
    prepare(quarters)
    furnish(quarters.path, key="k", roster=["n1.0"])
    for file in ("logs/n1.0.log", "logs/n1.1.log", "workers/n1.0.jsonl", "peers/n2.0.json", "graphs/ab.json"):
        (quarters.path / file).write_text("x")
    (quarters.path / "mine").write_text("")
    clear(quarters, ["n1.0", "n1.1"], keep=["logs/n1.1.log"])
    assert sorted(path.name for path in quarters.path.rglob("*")) == ["logs", "mine", "n1.1.log"]
    (quarters.path / "mine").unlink()
    clear(quarters, ["n1.0", "n1.1"])
    assert list(base.iterdir()) == []


def test_the_secret_can_be_forgotten_alone(quarters: Quarters) -> None:
    prepare(quarters)
    folder = furnish(quarters.path, key="k", roster=[])
    forget_key(quarters)
    forget_key(quarters)
    assert not folder.key.exists() and folder.roster.exists()


def test_the_lock_waits_for_who_holds_it(quarters: Quarters) -> None:
    prepare(quarters)
    with quarters.lock.open("w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(StartError, match="workers of an earlier agent"):
            asyncio.run(take_lock(quarters, 0.1))

        async def wait() -> int:
            asyncio.get_running_loop().call_later(0.05, fcntl.flock, holder, fcntl.LOCK_UN)
            return await take_lock(quarters, 5)

        os.close(asyncio.run(wait()))


def test_a_socket_replaces_that_of_a_dead_agent_and_leaves_a_newer_one(quarters: Quarters) -> None:
    prepare(quarters)
    with open_socket(quarters) as dead:
        inode = quarters.socket.stat().st_ino
        with open_socket(quarters) as sock, socket.socket(socket.AF_UNIX) as client:
            client.connect(str(quarters.socket))
            with sock.accept()[0] as peer:
                assert peer_uid(peer) == os.getuid()
            remove_socket(quarters, inode)
            assert quarters.socket.exists()
            remove_socket(quarters, quarters.socket.stat().st_ino)
            assert not quarters.socket.exists()
        assert dead.fileno() > 0


def test_a_path_too_long_for_a_socket_is_an_error(base: Path) -> None:
    quarters = find(RUN, "n1", {BASE_NAME: str(base / ("x" * 100))})
    base.mkdir()
    prepare(quarters)
    with pytest.raises(StartError, match=r"cannot listen at .*too long"):
        open_socket(quarters)
