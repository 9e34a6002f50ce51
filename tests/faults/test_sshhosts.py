"""What is missing is said. That the hosts work is shown by tests/cluster/test_ssh.py."""

from __future__ import annotations

import shutil

import pytest

from dagrad_bus.faults.sshhosts import SshHosts, why_not


def test_missing_programs_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program, path=None: None if program == "sshd" else f"/bin/{program}")
    assert why_not() == "needs sshd (openssh-client, openssh-server)"
    monkeypatch.setattr(shutil, "which", lambda program, path=None: "/usr/sbin/sshd")
    assert why_not() == ""


def test_hosts_are_numbered_from_one() -> None:
    assert SshHosts(3).names == ("node1", "node2", "node3")
