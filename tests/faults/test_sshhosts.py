"""What is missing is said. That the hosts work is shown by tests/cluster/test_ssh.py."""

from __future__ import annotations

import shutil

import pytest

from dagrad_bus.faults.sshhosts import SshHosts, why_not


def test_missing_programs_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"ssh", "ssh-keygen"}

    def which(program: str, path: str | None = None) -> str | None:
        return f"/bin/{program}" if program in there else None

    monkeypatch.setattr(shutil, "which", which)
    assert why_not() == "needs sshd (openssh-client, openssh-server)"
    there.add("sshd")
    assert why_not() == ""


def test_hosts_are_numbered_from_one() -> None:
    assert SshHosts(3).names == ("node1", "node2", "node3")
