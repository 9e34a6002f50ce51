"""The command line by which a program is started on another host: the system's own OpenSSH, nothing interactive.

OpenSSH honours what the user has set up (``~/.ssh/config``, agents, jump hosts). Each option has its reason:

====================================  ================================================================================
``-T``                                no terminal: with one, stderr would be merged into stdout
``BatchMode=yes``                     fail where a password or an unknown host key would be asked for
``ConnectTimeout=10``                 a host that swallows packets fails after seconds, not minutes
``ServerAliveInterval=5``, ``*Max=3`` a link that is cut shows after 15 s
``ControlMaster=no``                  an open master connection is used, none is left behind (it would hold stderr open)
``--``                                a host name is never taken for an option
``exec``                              no shell stays between ssh and the program
====================================  ================================================================================

Nothing secret is ever on this line: anybody on either host can read it. Secrets go by stdin.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
"""Hosts that need no ssh."""
_PATIENCE = 10.0
"""Seconds for ssh to read its configuration, which may run commands (``Match exec``)."""
_OPTIONS = ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3", "ControlMaster=no")


class Target(Protocol):
    """What of a host decides how it is reached."""

    @property
    def host(self) -> str:
        """Name or address, IPv6 without brackets."""
        ...

    @property
    def user(self) -> str | None:
        """Empty or None: as the ssh configuration says."""
        ...

    @property
    def port(self) -> int | None:
        """Of sshd; 0 or None: as the ssh configuration says."""
        ...

    @property
    def python(self) -> str | None:
        """Interpreter there; empty or None: the path of this one."""
        ...


def is_local(host: Target) -> bool:
    """Whether programs for ``host`` are started without ssh.

    ``localhost`` with a user or a port means an sshd (of a container, say), not this host as it is.
    """
    return host.host in LOCAL_NAMES and not host.user and not host.port


def python_words(host: Target, module: str, *arguments: str) -> list[str]:
    """Return the words that run ``module`` by the interpreter of ``host``."""
    return [host.python or sys.executable, "-u", "-m", module, *arguments]


def remote_command(words: Sequence[str]) -> str:
    """Return ``words`` as one line for the login shell of the other side, which may be sh, csh or fish.

    A leading ``~/`` of the first word stays the home folder there.
    """
    program = words[0]
    home, rest = ("~/", program[2:]) if program.startswith("~/") else ("", program)
    first = f"{home}'{rest}'" if rest.isprintable() and "'" not in rest else home + shlex.quote(rest)
    return " ".join(["exec", first, *map(shlex.quote, words[1:])])


def ssh_words(host: Target, remote: Sequence[str], *, config: Path | None = None) -> list[str]:
    """Return the command line that runs the words ``remote`` on ``host``.

    Args:
        host: where.
        remote: program and arguments; each arrives as it is, whatever it holds.
        config: an ssh configuration to use instead of the user's.
    """
    return [*_client(host, config), *_target(host), remote_command(remote)]


def _client(host: Target, config: Path | None) -> list[str]:
    words = ["ssh", "-T", *(word for option in _OPTIONS for word in ("-o", option))]
    if config is not None:
        words += ["-F", str(config)]
    return [*words, "-p", str(host.port)] if host.port else words


def _target(host: Target) -> list[str]:
    return ["--", f"{host.user}@{host.host}" if host.user else host.host]


def real_name(host: Target, *, config: Path | None = None) -> str:
    """Return the name or address that ssh connects to: ``host`` may be known to its configuration only (``HostName``)."""
    words = [*_client(host, config), "-G", *_target(host)]
    with suppress(OSError, subprocess.SubprocessError):
        shown = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE, check=False
        ).stdout
        for line in shown.decode(errors="replace").splitlines():
            if line.startswith("hostname "):
                return line.removeprefix("hostname ").strip()
    return host.host


def launch_words(host: Target, module: str, *arguments: str, config: Path | None = None) -> list[str]:
    """Return the command line that runs ``module`` on ``host``: by ssh, or at once where the host is this one."""
    words = python_words(host, module, *arguments)
    return words if is_local(host) else ssh_words(host, words, config=config)
