"""Several hosts that are reached by ssh: a head to launch from, and ``node1``, ``node2``, ... each with its own sshd.

A host has its own name, address, ``/tmp``, ``/dev/shm``, processes and cable; the repository and the environment are
the machine's. The head reaches them by name, and they one another; nobody else does. Needs root and OpenSSH.

::

    with SshHosts(3) as cluster:
        launcher = cluster.run(*dagrad, "run", "--hostfile", str(file), "--ssh-config", str(cluster.ssh_config), ...)
        cluster.cut("node2")
        cluster.restore("node2")
        cluster["node3"].kill(cluster["node3"].find("launch.agent")[0].pid)
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Self

from dagrad_bus.errors import StartError
from dagrad_bus.faults.host import Done, Process, VirtualHost, path_of, scratch
from dagrad_bus.faults.namespaces import Hosts

HEAD = "head"
START = 10.0
"""Seconds within which every sshd must answer."""
_SSHD = """\
Port 22
HostKey {folder}/host_key
AuthorizedKeysFile {keys}/user_key.pub
PidFile {folder}/sshd.pid
PasswordAuthentication no
PermitRootLogin prohibit-password
UsePAM no
StrictModes no
UseDNS no
PrintMotd no
PrintLastLog no
MaxStartups 100
MaxSessions 100
"""
_SSH = """\
Host *
    User root
    IdentityFile {keys}/user_key
    IdentitiesOnly yes
    UserKnownHostsFile {keys}/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    LogLevel ERROR
"""


def why_not() -> str:
    """Return which program is missing; empty if none is."""
    missing = [program for program in ("ssh", "ssh-keygen", "sshd") if not path_of(program)]
    return f"needs {', '.join(missing)} (openssh-client, openssh-server)" if missing else ""


class SshHosts:
    """A head and ``count`` hosts; a context manager that leaves nothing behind.

    Attributes:
        names: of the hosts, without the head.
        ssh_config: the file for ``ssh -F``.
    """

    def __init__(self, count: int = 3) -> None:
        self.names = tuple(f"node{number}" for number in range(1, count + 1))
        self._stack = contextlib.ExitStack()
        self._servers: dict[str, subprocess.Popen[bytes]] = {}
        self._banners = dict.fromkeys(self.names, "")

    def __enter__(self) -> Self:
        """Make the hosts and start their sshd.

        Raises:
            StartError: a command failed or an sshd does not answer.
        """
        try:
            self.folder = scratch("dagrad-ssh-")
            self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.ssh_config = self.folder / "ssh_config"
            everyone = (HEAD, *self.names)
            self._net = self._stack.enter_context(Hosts(len(everyone)))
            self._numbers = {name: number for number, name in enumerate(everyone)}
            addresses = {name: self.address(name) for name in everyone}
            self._hosts = {name: self._add(name, addresses) for name in everyone}
            self._make_keys()
            for name in self.names:
                self._serve(name)
            self._await()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Kill everything in every host, then remove the hosts and their files."""
        self._stack.close()

    def __getitem__(self, name: str) -> VirtualHost:
        """Return a host, or the head."""
        return self._hosts[name]

    def address(self, name: str) -> str:
        """Return the IPv4 address of a host."""
        return self._net.address(self._numbers[name])

    # Run something -------------------------------------------------------------------------------------------------

    def run(self, *words: str, **given: Any) -> subprocess.Popen[bytes]:
        """Start a command on the head; ``given`` goes to ``Popen``."""
        return self[HEAD].start(*words, **given)

    def ssh(self, name: str, command: str, seconds: float = 20.0) -> Done:
        """Run a shell command on a host, by ssh from the head."""
        return self[HEAD].call("ssh", "-F", str(self.ssh_config), name, command, seconds=seconds)

    def processes(self, name: str) -> list[Process]:
        """Return what runs on a host, its sshd included."""
        return self[name].processes()

    # Faults --------------------------------------------------------------------------------------------------------

    def cut(self, name: str) -> None:
        """Pull a host's cable: packets are lost, nothing is told."""
        self._net.plug(self._numbers[name], plugged=False)

    def restore(self, name: str) -> None:
        """Put the cable back."""
        self._net.plug(self._numbers[name], plugged=True)

    def greet(self, name: str, text: str) -> None:
        """Make a host print ``text`` to the stdout of every command run by ssh, as some login scripts do."""
        folder = self.folder / name
        self._banners[name] = text
        (folder / "banner").write_text(text)
        config = _SSHD.format(folder=folder, keys=self.folder)
        forced = f'cat {folder}/banner; exec sh -c "$SSH_ORIGINAL_COMMAND"'
        (folder / "sshd_config").write_text(f"{config}ForceCommand {forced}\n" if text else config)
        self[name].kill(self._servers[name].pid, signal.SIGHUP)
        self._await()

    # Set up --------------------------------------------------------------------------------------------------------

    def _add(self, name: str, addresses: dict[str, str]) -> VirtualHost:
        host = VirtualHost(self._net.name(self._numbers[name]), name, self.folder / name, addresses)
        return self._stack.enter_context(host)

    def _make_keys(self) -> None:
        self._make_key(self.folder / "user_key")
        self.ssh_config.write_text(_SSH.format(keys=self.folder))
        lines: list[str] = []
        for name in self.names:
            public = self._make_key(self.folder / name / "host_key")
            lines.append(f"{name},{self.address(name)} {public}")
        (self.folder / "known_hosts").write_text("\n".join(lines) + "\n")

    def _make_key(self, path: Path) -> str:
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise StartError(f"ssh-keygen: {done.stderr.strip()}")
        return path.with_name(f"{path.name}.pub").read_text().strip()

    def _serve(self, name: str) -> None:
        folder = self.folder / name
        (folder / "sshd_config").write_text(_SSHD.format(folder=folder, keys=self.folder))
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd locks its children in; compiled in
        words = [path_of("sshd"), "-D", "-f", str(folder / "sshd_config"), "-E", str(folder / "sshd.log")]
        self._servers[name] = self[name].start(*words, stdin=subprocess.DEVNULL)

    def _await(self) -> None:
        deadline = time.monotonic() + START
        for name in self.names:
            while (done := self.ssh(name, "hostname")).out != f"{self._banners[name]}{name}\n":
                if time.monotonic() > deadline:
                    log = (self.folder / name / "sshd.log").read_text()
                    raise StartError(f"no ssh to {name}: {done.text}\n{log}")
                time.sleep(0.05)
