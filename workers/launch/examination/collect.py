"""Brings the facts of all hosts together: starts a probe on each, asks them all the same, lets them visit one another."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Protocol, cast

from dagrad_bus.errors import StartError
from dagrad_bus.workers.launch.addresses import LOOPBACK, towards
from dagrad_bus.workers.launch.examination.host import gather_facts
from dagrad_bus.workers.launch.examination.judgement import Examined, HostFacts, PathFacts, list_of, plural
from dagrad_bus.workers.launch.examination.paths import SECONDS, TOKEN_BYTES
from dagrad_bus.workers.launch.pipes import Pipe, open_process
from dagrad_bus.workers.launch.ssh import Target, is_local, launch_words

PROBE = "dagrad_bus.workers.launch.probe"
ALL_PAIRS = 32
"""Hosts up to which every pair is tried; with more, each tries ``SOME`` others at random."""
SOME = 8
CLOCK_ROUNDS = 8
LISTENERS = 2
"""Ports a host listens on: a worker too has two."""
AT_ONCE = 32
"""Hosts being connected at a time: a jump host takes no more."""
FIRST_ANSWER = 30.0
"""Seconds: ssh gives up after 10, and a slow login may take some more."""
_ANSWER = 20.0
_NOISE_LINES = 20


class Subject(Target, Protocol):
    """What of a line of the hostfile is examined; :class:`~dagrad_bus.workers.launch.hostfile.Host` has it."""

    @property
    def label(self) -> str:
        """First part of its workers' names."""
        ...

    @property
    def slots(self) -> int:
        """Workers there."""
        ...

    @property
    def addr(self) -> str | None:
        """Address that peers use."""
        ...

    @property
    def devices(self) -> Sequence[str]:
        """One a slot, or none."""
        ...

    @property
    def cwd(self) -> str | None:
        """Folder in which workers run."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What to examine, and how."""

    subjects: Sequence[Subject]
    first_port: int = 20000
    last_port: int = 32000
    throughput: bool = False
    timeout: float = 3.0
    """Seconds that a connection between hosts may take."""
    ssh_config: Path | None = None
    env: Mapping[str, str]
    """Environment of ssh, and of a probe on this host."""
    cwd: str
    """Folder of workers on hosts that name none."""


class _Silent(Exception):
    """The probe does not answer any more."""


class Interview:
    """Questions to one probe and its answers, one after the other."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self.noise: list[str] = []
        """Lines that are no answers: what login scripts print."""

    async def ask(self, op: str, *, patience: float = _ANSWER, **question: object) -> dict[str, Any]:
        """Return the answer.

        Raises:
            _Silent: the probe has ended, or does not answer within ``patience`` seconds.
        """
        self._pipe.write(json.dumps({"op": op, **question}).encode() + b"\n")
        try:
            async with asyncio.timeout(patience):
                while line := await self._pipe.read():
                    answer = _parse(line)
                    if answer is not None and answer.get("op") == op:
                        return answer
                    if len(self.noise) < _NOISE_LINES:
                        self.noise.append(line.decode(errors="replace").rstrip())
        except TimeoutError:
            raise _Silent(f"no answer within {patience:.0f} s") from None
        raise _Silent(self._pipe.describe_end() or "\n".join(self.noise))


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        answer: Any = json.loads(line)
    except ValueError:
        return None
    return cast("dict[str, Any]", answer) if isinstance(answer, dict) else None


def estimate_offset(samples: Sequence[tuple[float, float, float, float]]) -> tuple[float, float]:
    """Return how far another clock is ahead, and the most by which that is wrong, in seconds (as NTP does, RFC 5905).

    Args:
        samples: (asked, received there, sent there, answered), the first and last by the clock here. The one of the
            shortest round trip counts: its delays leave least room.
    """
    asked, received, sent, answered = min(samples, key=lambda one: (one[3] - one[0]) - (one[2] - one[1]))
    trip = (answered - asked) - (sent - received)
    return ((received - asked) + (sent - answered)) / 2, max(trip, 0.0) / 2


class Collection:
    """One examination while it happens."""

    def __init__(self, wanted: Examination, told: Callable[[str], None]) -> None:
        self._wanted = wanted
        self._told = told
        self._hosts: dict[str, HostFacts] = {}
        self._interviews: dict[str, Interview] = {}
        self._token = secrets.token_bytes(TOKEN_BYTES).hex()
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> Examined:
        """Return the facts; hosts that do not answer are among them."""
        wanted = self._wanted
        here = gather_facts(wanted.cwd, wanted.env)
        paths: list[PathFacts] = []
        with tempfile.TemporaryDirectory(prefix="dagrad-doctor-") as folder:
            async with AsyncExitStack() as stack:
                self._told(f"asking {plural(len(wanted.subjects), 'host')}")
                await _all([self._meet(subject, stack, Path(folder)) for subject in wanted.subjects])
                await self._each(self._look_up)
                await self._each(self._listen)
                if len(self._interviews) > 1:
                    self._told("trying the paths between them")
                    paths = await self._visit_all()
                if wanted.throughput:
                    paths = await self._measure(paths)
        hosts = [self._hosts[subject.label] for subject in wanted.subjects]
        return Examined(hosts=hosts, paths=paths, here=here, first_port=wanted.first_port, last_port=wanted.last_port)

    async def _meet(self, subject: Subject, stack: AsyncExitStack, folder: Path) -> None:
        """Start the probe of a host and ask what it knows of itself."""
        label, wanted = subject.label, self._wanted
        host = HostFacts(
            label=label,
            target=f"{subject.user}@{subject.host}" if subject.user else subject.host,
            slots=subject.slots,
            local=is_local(subject),
            address_given=bool(subject.addr),
            cwd_given=bool(subject.cwd) and subject.cwd != wanted.cwd,
            devices=tuple(subject.devices),
        )
        words = launch_words(subject, PROBE, config=wanted.ssh_config)
        try:
            async with self._gate:
                pipe = await stack.enter_async_context(open_process(words, env=wanted.env, errors=folder / label))
                interview = Interview(pipe)
                host = await self._compare_clocks(host, interview)
                cwd = subject.cwd or wanted.cwd
                facts = await interview.ask("facts", cwd=cwd, patience=FIRST_ANSWER)
        except (_Silent, StartError) as error:
            self._hosts[label] = replace(host, end=str(error))
            return
        self._interviews[label] = interview
        address = self._address(subject, facts)
        self._hosts[label] = replace(host, reached=True, facts=facts, address=address, noise=tuple(interview.noise))

    async def _compare_clocks(self, host: HostFacts, interview: Interview) -> HostFacts:
        samples: list[tuple[float, float, float, float]] = []
        login = 0.0
        for number in range(1 if host.local else CLOCK_ROUNDS + 1):
            asked = time.time()
            answer = await interview.ask("clock", patience=_ANSWER if number else FIRST_ANSWER)
            answered = time.time()
            if not number:  # this one waited for the login
                login = answered - asked
            samples.append((asked, float(answer["received"]), float(answer["sent"]), answered))
        if host.local:
            return replace(host, login=login)
        offset, error = estimate_offset(samples[1:])
        return replace(host, login=login, offset=offset, offset_error=error)

    def _address(self, subject: Subject, facts: Mapping[str, Any]) -> str:
        """Return what peers are told: the user's word, or the address by which ssh came in."""
        if subject.addr:
            return subject.addr
        if not is_local(subject):
            ssh = list_of(facts, "ssh")
            return str(ssh[2]) if len(ssh) == 4 else subject.host
        others = [other for other in self._wanted.subjects if not is_local(other)]
        return (towards(others[0].addr or others[0].host) if others else None) or LOOPBACK

    async def _each(self, question: Callable[[str, Interview], Any]) -> None:
        await _all([self._ask_one(question, label) for label in list(self._interviews)])

    async def _ask_one(self, question: Callable[[str, Interview], Any], label: str) -> None:
        try:
            await question(label, self._interviews[label])
        except _Silent as error:
            self._lose(label, str(error))

    def _lose(self, label: str, why: str) -> None:
        """Note that a host answered and does no more."""
        self._interviews.pop(label, None)
        self._hosts[label] = replace(self._hosts[label], reached=False, end=f"it answered, and then: {why}")

    async def _look_up(self, label: str, interview: Interview) -> None:
        told = sorted({host.address for host in self._hosts.values() if host.address and not _is_address(host.address)})
        if told:
            answer = await interview.ask("resolve", names=told, patience=60.0)
            self._hosts[label] = replace(self._hosts[label], names=answer["found"])

    async def _listen(self, label: str, interview: Interview) -> None:
        wanted = self._wanted
        answer = await interview.ask(
            "listen",
            first=wanted.first_port,
            last=wanted.last_port,
            count=min(LISTENERS, wanted.last_port - wanted.first_port + 1),
            token=self._token,
            v6=":" in self._hosts[label].address,
        )
        self._hosts[label] = replace(
            self._hosts[label], ports=answer["ports"], ports_tried=answer["tried"], ports_error=answer["error"]
        )

    async def _visit_all(self) -> list[PathFacts]:
        labels = sorted(self._interviews)
        found: dict[str, list[PathFacts]] = {label: [] for label in labels}

        async def visit(label: str, interview: Interview) -> None:
            others = [other for other in labels if other != label]
            if len(labels) > ALL_PAIRS:
                others = random.sample(others, SOME)
            found[label] = await self._visit(label, interview, others, ports=LISTENERS)

        await self._each(visit)
        return [path for label in labels for path in found[label]]

    async def _visit(
        self, label: str, interview: Interview, others: Sequence[str], *, ports: int, stream: bool = False
    ) -> list[PathFacts]:
        targets = [
            {"id": [other, port], "host": self._hosts[other].address.strip("[]"), "port": port, "token": self._token,
             "stream": stream}
            for other in others for port in self._hosts[other].ports[:ports]
        ]  # fmt: skip
        timeout = self._wanted.timeout
        patience = _ANSWER + (2 * timeout + SECONDS * stream) * (1 + len(targets) / 8)
        answer = await interview.ask("visit", targets=targets, timeout=timeout, patience=patience)
        return [self._path(label, visited) for visited in answer["visits"]]

    def _path(self, label: str, visited: Mapping[str, Any]) -> PathFacts:
        other, port = visited["id"]
        numbers = {name: visited[name] for name in ("error", "rtt", "mtu", "rate") if name in visited}
        source = str(visited.get("source", ""))
        address = self._hosts[other].address
        return PathFacts(source=label, target=other, address=address, port=port, source_address=source, **numbers)

    async def _measure(self, paths: Sequence[PathFacts]) -> list[PathFacts]:
        """Measure throughput in rounds in which each host sends to one other and hears of one."""
        labels = sorted(self._interviews)
        whole = {(path.source, path.target) for path in paths if not path.error}
        rates: dict[tuple[str, str], float | None] = {}
        for distance in range(1, min(len(labels), ALL_PAIRS)):
            self._told(f"throughput, round {distance} of {min(len(labels), ALL_PAIRS) - 1}")
            nexts = dict(zip(labels, labels[distance:] + labels[:distance], strict=True))

            async def stream(label: str, interview: Interview, nexts: Mapping[str, str] = nexts) -> None:
                other = nexts[label]
                if (label, other) in whole:
                    (path,) = await self._visit(label, interview, [other], ports=1, stream=True)
                    rates[label, other] = path.rate

            await self._each(stream)
        return [replace(path, rate=rates.get((path.source, path.target))) for path in paths]


async def _all(jobs: Sequence[Any]) -> None:
    async with asyncio.TaskGroup() as group:
        for job in jobs:
            group.create_task(job)


def _is_address(text: str) -> bool:
    try:
        ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True


async def collect(wanted: Examination, told: Callable[[str], None] = lambda text: None) -> Examined:
    """Examine the hosts; ``told`` is called with what is being done."""
    return await Collection(wanted, told).run()
