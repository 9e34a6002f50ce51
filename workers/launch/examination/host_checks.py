"""What is wrong with single hosts. Pure functions; docs/doctor.md gives the reason for each threshold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address
from statistics import median
from typing import Any

from dagrad_bus.workers.launch.examination.host import list_missing
from dagrad_bus.workers.launch.examination.judgement import Examined, Fault, HostFacts, level, list_of, plural, table_of

OLDEST_PYTHON = (3, 11)
NEEDED = ("dagrad-bus", "torch", "numpy", "pyzmq", "msgpack", "google-crc32c", "structlog")
EQUAL = ("torch", "numpy")
"""Packages whose major and minor versions should agree."""
SLOW_LOGIN = 5.0
"""Seconds, the start of the interpreter included."""
CLOCK_FAULT, CLOCK_WARNING = 2.0, 0.5
"""Seconds."""
FDS_FAULT, FDS_WARNING = 512, 1024
MEMORY_FAULT, MEMORY_WARNING = 300 << 20, 1 << 30
"""Bytes a slot."""
DISK_FAULT, DISK_WARNING = 100 << 20, 1 << 30
"""Bytes."""
BACKLOG = 100
"""Connections that libzmq asks the kernel to queue."""
PORTS_A_SLOT = 2

_ENDS = (
    (r"permission denied", "ssh refuses our key", "ssh-copy-id {target}"),
    (r"identification has changed", "its host key is another than known",
     "if the host was set up anew: ssh-keygen -R {host}, then ssh {target} once"),
    (r"host key verification failed|no .* host key is known", "its host key is not known here",
     "ssh {target} once by hand, and answer yes"),
    (r"could not resolve hostname", "its name does not resolve here",
     "correct the name, or add it to DNS, /etc/hosts or ~/.ssh/config"),
    (r"connection refused", "no sshd listens", "start sshd there, or give port= in the hostfile"),
    (r"timed out|no route to host|network is unreachable", "ssh finds no way to it",
     "is the host up, and TCP 22 open? ssh {target} shows it"),
    (r"no module named '?dagrad_bus", "dagrad-bus is not installed for its python",
     "on {label}: pip install dagrad-bus=={version}; or name the python that has it by python= in the hostfile"),
    (r"not found|no such file|not executable|cannot run", "its python cannot be run",
     "install python there at the same path, or give python= in the hostfile"),
)  # fmt: skip
"""Pattern in the last words, what it means, repair."""


def check_hosts(examined: Examined) -> list[Fault]:
    """Return what is wrong with each host, in the order of the hosts."""
    found: list[Fault] = []
    for host in examined.hosts:
        if not host.reached:
            found.append(_unreached(host, examined))
            continue
        several = len(examined.hosts) > 1
        found += [
            *_login(host),
            *_software(host, examined),
            *_limits(host),
            *_files(host),
            *_address(host, several=several),
            *_ports(host, examined),
        ]
    return found + list(check_clocks(examined))


def _unreached(host: HostFacts, examined: Examined) -> Fault:
    facts: dict[str, Any] = {
        "target": host.target,
        "host": host.target.rpartition("@")[2],
        "label": host.label,
        "version": table_of(examined.here, "packages").get("dagrad-bus") or "(the version here)",
    }
    for pattern, what, repair in _ENDS:
        if re.search(pattern, host.end, re.IGNORECASE):
            return Fault("fault", "reach", host.label, what, repair.format(**facts))
    said = host.end.splitlines()[-1] if host.end else "no answer"
    by_hand = f"see what this says: ssh {host.target} true" if not host.local else "see docs/doctor.md"
    return Fault("fault", "reach", host.label, f"the probe does not answer ({said})", by_hand)


def _login(host: HostFacts) -> Iterator[Fault]:
    if host.login > SLOW_LOGIN:
        what = f"{host.login:.1f} s until a program starts; every start waits for that"
        yield Fault("warning", "login", host.label, what, "look at its login scripts, or at UseDNS in sshd_config")
    if host.noise:
        what = f"its login scripts print ({host.noise[0][:60]!r})"
        yield Fault("warning", "login", host.label, what, "print only in interactive shells: [[ $- == *i* ]]")


def _software(host: HostFacts, examined: Examined) -> Iterator[Fault]:
    facts, here = host.facts, examined.here
    packages, ours = table_of(facts, "packages"), table_of(here, "packages")
    install = f"on {host.label}: {host.python} -m pip install"
    version = tuple(int(part) for part in re.findall(r"\d+", str(facts.get("python", "")))[:2])
    if version and version < OLDEST_PYTHON:
        need = ".".join(map(str, OLDEST_PYTHON))
        yield Fault(
            "fault", "python", host.label, f"python {facts['python']}", f"needs {need}; python= in the hostfile"
        )
    if missing := [name for name in list_missing(packages, NEEDED) if name != "dagrad-bus" or packages]:
        yield Fault("fault", "package", host.label, f"{', '.join(missing)} not installed", f"{install} dagrad-bus")
    theirs, own = packages.get("dagrad-bus"), ours.get("dagrad-bus")
    if theirs and own and theirs != own:
        what = f"has dagrad-bus {theirs}, here it is {own}"
        yield Fault("fault", "version", host.label, what, f"{install} dagrad-bus=={own}")
    elif "wire_error" in facts:
        what = f"dagrad-bus cannot be imported ({facts['wire_error']})"
        yield Fault("fault", "package", host.label, what, f"{install} --force-reinstall dagrad-bus")
    elif facts.get("wire") != here.get("wire"):
        what = f"speaks wire {facts.get('wire')}, here it is {here.get('wire')}"
        yield Fault("fault", "version", host.label, what, f"{install} dagrad-bus=={own}")
    for name in EQUAL:
        if packages.get(name) and ours.get(name) and _minor(packages[name]) != _minor(ours[name]):
            what = f"has {name} {packages[name]}, here it is {ours[name]}"
            yield Fault("warning", "version", host.label, what, f"{install} {name}=={ours[name].partition('+')[0]}")


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _limits(host: HostFacts) -> Iterator[Fault]:
    facts = host.facts
    soft, hard = facts.get("fds") or (None, None)
    if soft is not None and soft < FDS_WARNING:
        grade = level(soft < FDS_FAULT)
        how = "ulimit -n 4096" if hard is None or hard >= 4096 else "raise the hard limit"
        repair = f"{how} in its login script, nofile in /etc/security/limits.conf, or LimitNOFILE of the service"
        yield Fault(grade, "descriptors", host.label, f"{soft} file descriptors", repair)
    memory = facts.get("memory")
    if memory and memory["available"] < MEMORY_WARNING * host.slots:
        grade = level(memory["available"] < MEMORY_FAULT * host.slots)
        what = f"{memory['available'] / 2**30:.1f} GiB of memory free for {plural(host.slots, 'slot')}"
        yield Fault(grade, "memory", host.label, what, "fewer slots there, or a larger memory limit of the container")
    cores = facts.get("cores")
    if cores:
        usable = min(cores["usable"], cores.get("quota") or cores["usable"])
        if host.slots > usable:
            what = f"{plural(host.slots, 'slot')} on {usable:g} usable cores"
            yield Fault("warning", "cores", host.label, what, f"slots={max(1, int(usable))}, unless steps wait anyway")
    wanted = [name for name in host.devices if name.startswith("cuda")]
    highest = max((int(name.partition(":")[2] or 0) for name in wanted), default=-1)
    if "gpus" in facts and highest >= facts["gpus"]:
        what = f"device cuda:{highest}, but {plural(facts['gpus'], 'GPU')}"
        yield Fault("fault", "device", host.label, what, "correct device= in the hostfile, or its driver (nvidia-smi)")
    backlog = facts.get("somaxconn")
    if backlog is not None and backlog < BACKLOG:
        what = f"somaxconn is {backlog}: of many workers that connect at once some wait seconds"
        yield Fault("warning", "backlog", host.label, what, "sysctl -w net.core.somaxconn=1024")


def _files(host: HostFacts) -> Iterator[Fault]:
    temporary, cwd = host.facts.get("temporary"), host.facts.get("cwd")
    if temporary and not temporary["writable"]:
        what = f"{temporary['path']} cannot be written"
        yield Fault("fault", "disk", host.label, what, f"chmod 1777 {temporary['path']}")
    elif temporary and temporary["free"] < DISK_WARNING:
        grade = level(temporary["free"] < DISK_FAULT)
        what = f"{temporary['free'] >> 20} MiB free in {temporary['path']}, where logs and journals go"
        yield Fault(grade, "disk", host.label, what, "make room there")
    if cwd and not cwd["exists"]:
        grade = level(host.cwd_given)
        repair = "make or copy it there, or give another cwd= in the hostfile"
        yield Fault(grade, "cwd", host.label, f"folder {cwd['path']} does not exist", repair)
    ranks = host.facts.get("ranks")
    if ranks and host.local:
        what = f"{', '.join(ranks[:3])} in the environment"
        repair = "dagrad run takes them away; unset them for programs started by hand"
        yield Fault("warning", "ranks", host.label, what, repair)


def is_loopback(address: str) -> bool:
    """Whether only the host itself reaches ``address``."""
    try:
        return ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return address == "localhost"


def _address(host: HostFacts, *, several: bool) -> Iterator[Fault]:
    if not several:
        return
    if is_loopback(host.address):
        what = f"peers are told {host.address}, which only this host reaches"
        yield Fault("fault", "address", host.label, what, "addr= with its address in the network, in the hostfile")
    own = list_of(host.facts, "own_name")
    if own and all(map(is_loopback, own)):
        what = f"its own name {host.facts.get('hostname')} resolves to {own[0]} there"
        repair = "give it its network address in /etc/hosts; dagrad does not use the name, other programs may"
        yield Fault("warning", "name", host.label, what, repair)
    for name, addresses in host.names.items():
        if not addresses:
            repair = "add it to DNS or /etc/hosts there, or give an address as addr= in the hostfile"
            yield Fault("fault", "name", host.label, f"name {name} does not resolve", repair)


def _ports(host: HostFacts, examined: Examined) -> Iterator[Fault]:
    first, last = examined.first_port, examined.last_port
    need, size = PORTS_A_SLOT * host.slots, last - first + 1
    if size < need:
        what = f"{plural(host.slots, 'slot')} need {need} ports, {first}-{last} has {size}"
        yield Fault("fault", "port", host.label, what, "a wider --port-range")
    elif host.ports_tried and len(host.ports) < min(PORTS_A_SLOT, size):
        what = f"no port of {first}-{last} is free ({host.ports_error}), {host.ports_tried} tried"
        yield Fault("fault", "port", host.label, what, "another --port-range")
    low, high = host.facts.get("ephemeral") or (65536, 65536)
    if first <= high and low <= last:
        what = f"ports {first}-{last} overlap those of outgoing connections, {low}-{high}"
        yield Fault("warning", "port", host.label, what, f"a --port-range below {low}")


def check_clocks(examined: Examined) -> Iterator[Fault]:
    """Return clocks that are wrong: against the median of all, or against the one here where there are two."""
    offsets = [0.0] + [host.offset for host in examined.reached if not host.local]
    middle = median(offsets) if len(offsets) > 2 else 0.0
    clocks = [(host.label, host.offset, host.offset_error) for host in examined.reached if not host.local]
    if len(offsets) > 2:
        local = next((host.label for host in examined.reached if host.local), "this host")
        clocks.append((local, 0.0, 0.0))
    for label, offset, error in clocks:
        ahead = offset - middle
        sure = abs(ahead) - error
        if sure > CLOCK_WARNING:
            grade = level(sure > CLOCK_FAULT)
            what = f"clock is {abs(ahead):.1f} s {'ahead' if ahead > 0 else 'behind'}"
            yield Fault(grade, "clock", label, what, f"on {label}: chronyc makestep (or: timedatectl set-ntp true)")
