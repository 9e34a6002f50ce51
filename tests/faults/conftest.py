"""Herds for the rows of the fault matrix, and members that say whatever they are told to."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq

from dagrad_bus.bus.identity import Identity
from dagrad_bus.faults.herd import KEY, RUN, Herd, Member
from dagrad_bus.faults.namespaces import Hosts, why_not
from dagrad_bus.faults.versions import layout_of
from dagrad_bus.ids import EdgeId, derive_edge_id
from dagrad_bus.settings import Settings
from dagrad_bus.wire import Hello, HelloOk, Message, pack, parse

HerdOf = Callable[..., AbstractContextManager[Herd]]


@pytest.fixture(scope="module")
def herd_of(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> HerdOf:
    """Return what runs ``count`` workers, linked; further arguments are those of :class:`Herd`."""
    seed: int = pytestconfig.option.fault_seed

    @contextmanager
    def run(count: int, *, start: bool = True, **given: Any) -> Generator[Herd]:
        folder = given.pop("folder", None) or tmp_path_factory.mktemp("herd")
        names = [f"w{number}" for number in range(count)]
        with Herd(folder, names, seed=given.pop("seed", seed), **given) as herd:
            if start:
                herd.start()
                herd.await_linked(30)
            yield herd

    return run


@pytest.fixture
def hosts() -> Generator[Callable[[int], Hosts]]:
    """Return what makes network namespaces; skips where there can be none."""
    if reason := why_not():
        pytest.skip(reason)
    made: list[Hosts] = []

    def make(count: int) -> Hosts:
        found = Hosts(count)
        made.append(found.__enter__())
        return found

    yield make
    for found in made:
        found.close()


class Hostile:
    """A peer with plain sockets that speaks to one worker: it says what it is told and keeps what it is answered."""

    def __init__(self, herd: Herd, name: str, key: bytes = KEY.encode(), run: str = RUN) -> None:
        member = herd[name]
        settings = Settings(run=run, name=name, members=herd.names, key=key, directory=Path("unused"))
        self.node = member.node
        self.ctx: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.inbox = self.ctx.socket(zmq.ROUTER)
        self.dealer = self.ctx.socket(zmq.DEALER)
        for sock in (self.inbox, self.dealer):
            sock.set(zmq.LINGER, 0)
        self.dealer.set(zmq.SNDTIMEO, 5000)
        self.dealer.set(zmq.ROUTING_ID, b"\1" + member.node + secrets.token_bytes(8))
        port = self.inbox.bind_to_random_port("tcp://127.0.0.1")
        self.identity = Identity(settings, layout_of(1024), time.time_ns())
        address = f"tcp://127.0.0.1:{port}"
        self.hello: Hello = replace(self.identity.hello(address, address), wanted=True)
        self.answers: list[Message] = []

    def connect(self, victim: Member) -> None:
        """Connect to a worker's own port."""
        self.dealer.connect(f"tcp://{victim.host}:{victim.inbox_port}")

    def say(self, *messages: Message) -> None:
        """Send messages."""
        for message in messages:
            self.dealer.send_multipart(pack(message))

    def say_parts(self, *parts: bytes) -> None:
        """Send anything."""
        self.dealer.send_multipart(list(parts))

    def hear(self, seconds: float) -> list[Message]:
        """Return all answers so far, after listening for a while."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if self.inbox.poll(int(left * 1000) + 1):
                self.answers.append(parse(self.inbox.recv_multipart()[1:]))
        return self.answers

    def await_answer(self, kind: type[Message], seconds: float = 5.0) -> Message:
        """Return the first answer of a kind."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for answer in self.answers:
                if isinstance(answer, kind):
                    return answer
            self.hear(0.05)
        raise AssertionError(f"no {kind.__name__} among {self.answers}")

    def edge_to(self, victim: Member, answer: HelloOk) -> EdgeId:
        """Return the edge between this process and the one that answered."""
        return derive_edge_id(self.node, self.hello.epoch, victim.node, answer.epoch)

    def close(self) -> None:
        """Close everything."""
        self.ctx.destroy(linger=0)


@pytest.fixture
def hostile() -> Generator[Callable[..., Hostile]]:
    """Return what makes a hostile peer: herd, whose name it takes, key, run."""
    made: list[Hostile] = []

    def make(herd: Herd, name: str, **given: Any) -> Hostile:
        made.append(Hostile(herd, name, **given))
        return made[-1]

    yield make
    for one in made:
        one.close()
