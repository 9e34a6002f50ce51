"""Every step of every worker reaches the server once, whatever is lost, repeated or told wrongly on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dagrad_bus.attach.async_ps import PushRule, ServeRule
from dagrad_bus.attach.attachment import Attachment, attach
from dagrad_bus.codec import Value
from dagrad_bus.events import Arrival, MemberEvent, Selection
from dagrad_bus.ids import Step
from dagrad_bus.settings import ExchangeSettings, LinkSettings, Settings
from dagrad_bus.wire import Kind

Staff = Callable[[Sequence[str]], list[Any]]
NAMES = ("a", "b", "c")
SMALL = LinkSettings(max_frame=65536)
SIZE = 20_000
"""Parameters: two of those frames."""


class Worker:
    """A line of parameters under ``async-ps``; its gradients are whole numbers, so that sums are exact."""

    def __init__(self, port: Any, name: str, size: int = SIZE, **exchange: Any) -> None:
        self.model = nn.Linear(size, 1, bias=False)
        nn.init.zeros_(self.model.weight)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0)
        chosen = ExchangeSettings(rule="async-ps", block=8, **exchange)
        settings = Settings(name=name, members=NAMES, exchange=chosen, link=SMALL)
        self.port = port
        self.attachment: Attachment = attach(self.model, self.optimizer, port, settings=settings, clock=port.clock)
        self.learned = torch.zeros(size)
        self._chance = torch.Generator().manual_seed(ord(name))

    @property
    def x(self) -> Tensor:
        return self.model.weight.detach().view(-1).clone()

    def step(self, learns: bool = True) -> None:
        gradient = torch.randint(-3, 4, self.x.shape, generator=self._chance).float() * learns
        self.learned -= gradient
        self.model.weight.grad = gradient.view(1, -1)
        self.optimizer.step()

    def counter(self, name: str) -> int:
        counters: Any = self.attachment.metrics()["counters"]
        return int(counters.get(name, 0))


def staff(ports: Sequence[Any], **exchange: Any) -> list[Worker]:
    return [Worker(port, name, **exchange) for port, name in zip(ports, NAMES, strict=True)]


def pushed(port: Any) -> Tensor:
    """Return the sum of the distinct pushes of one worker, as published."""
    total, seen = torch.zeros(SIZE), set[tuple[int, int]]()
    for frame in port.published:
        rows, first = frame.selection.values, int(frame.selection.indices[0])
        if frame.kind is Kind.GRADIENT and (frame.step, first) not in seen:
            seen.add((frame.step, first))
            total[first * 8 : first * 8 + rows.size] += torch.from_numpy(rows.reshape(-1).copy())
    return total


def faults(ports: Sequence[Any], share: float) -> None:
    for place, port in enumerate(ports):
        bad = np.random.default_rng(place).random((2, 1000)) < share
        port.drops, port.lies = (set(np.flatnonzero(row).tolist()) for row in bad)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_in_the_end_all_have_what_all_have_learned_exactly_once(staffed: Staff, share: float) -> None:
    ports = staffed(NAMES)
    workers = staff(ports)
    faults(ports, share)
    chance = np.random.default_rng(0)
    for turn in range(60):
        place = int(chance.integers(0, 3))  # in any order, at any rate
        workers[place].step()
        if share and turn % 9 == 0:
            ports[int(chance.integers(0, 3))].generation += 1
    server = workers[0]
    on_the_way = sum((pushed(port) for port in ports[1:]), torch.zeros(SIZE))
    for _ in range(60):
        for worker in workers:
            worker.step(learns=False)
    everything = sum((worker.learned for worker in workers), torch.zeros(SIZE))
    assert torch.equal(server.x, server.learned + sum((pushed(port) for port in ports[1:]), torch.zeros(SIZE)))
    assert on_the_way.any()
    for worker in workers:
        assert torch.equal(worker.x, everything)
    assert server.counter("pushes") > 10 and min(worker.counter("pulls") for worker in workers[1:]) > 5
    assert all(worker.counter("frames_mixed") > 0 for worker in workers)
    assert (server.counter("frames_dropped.repeated") > 0) == (share > 0)


def test_a_frame_to_the_server_is_the_worker_s_own_increment_and_its_answer_the_server_s_values(staffed: Staff) -> None:
    a, b, c = staffed(NAMES)
    server, workers = Worker(a, "a"), [Worker(b, "b"), Worker(c, "c")]
    for worker in workers:
        worker.step()
        worker.step()  # the second frame of the push
    assert not pushed(b).equal(workers[0].learned)  # what was learned in the second step waits
    assert {frame.kind for frame in (*b.published, *c.published)} == {Kind.GRADIENT}
    server.step()
    assert torch.equal(server.x, server.learned + pushed(b) + pushed(c))
    server.step(learns=False)
    answers = [frame for frame in a.published if frame.kind is Kind.STATE]
    assert [len(frame.links) for frame in answers] == [2, 2]  # one copy for both
    expected = server.x + (workers[0].learned - pushed(b))
    workers[0].step(learns=False)
    assert torch.equal(workers[0].x, expected)


def test_an_answer_counts_once_the_push_is_known_to_be_there(staffed: Staff) -> None:
    a, b, _ = staffed(NAMES)
    worker = Worker(b, "b")
    b.delivers = False
    worker.step()
    rows = np.full((SIZE // 8, 8), 5, np.float32)
    chosen = Selection(np.arange(SIZE // 8), rows)
    b.waiting = [Arrival(a.me, Kind.STATE, Value.F32, chosen, Step(1), 1.0, 0.0, 0.0)]
    worker.step()
    assert worker.counter("pulls") == 0
    b.delivers = True
    for _ in range(3):
        worker.step()
    assert worker.counter("pulls") == 1


def test_a_server_that_was_started_again_takes_what_the_former_one_never_answered(staffed: Staff) -> None:
    a, b, _ = staffed(NAMES)
    Worker(a, "a")
    worker = Worker(b, "b")
    for _ in range(3):
        worker.step()  # whole at the former server, which does nothing more
    a.waiting = []
    server = Worker(a, "a")
    b.generation = 2
    b.events = [MemberEvent(a.me, "a", "rejoined")]
    for _ in range(12):
        worker.step(learns=False)
        server.step(learns=False)
    assert torch.equal(server.x, worker.learned) and torch.equal(worker.x, worker.learned)


def test_without_a_server_a_worker_trains_on_alone(staffed: Staff) -> None:
    _, b, _ = staffed(NAMES)
    worker = Worker(b, "b")
    for _ in range(20):
        worker.step()
    assert torch.equal(worker.x, worker.learned) and len(b.published) == 2


def test_a_worker_that_is_gone_gets_no_answer(staffed: Staff) -> None:
    a, b, _ = staffed(NAMES)
    server, worker = Worker(a, "a"), Worker(b, "b")
    worker.step()
    worker.step()
    a.ready = False
    server.step()
    a.events = [MemberEvent(b.me, "b", "dead")]
    a.ready = True
    for _ in range(4):
        server.step()
    assert not a.published


def test_frames_of_others_than_the_server_are_dropped(staffed: Staff) -> None:
    a, b, c = staffed(NAMES)
    worker, server = Worker(b, "b"), Worker(a, "a")
    chosen = Selection(np.arange(2), np.full((2, 8), 7, np.float32))
    for port in (a, b):
        port.waiting = [Arrival(c.me, Kind.STATE, Value.F32, chosen, Step(1), 1.0, 0.0, 0.0)]
    worker.step(learns=False)
    server.step(learns=False)
    assert not worker.x.any() and not server.x.any()
    assert worker.counter("frames_dropped.stranger") == server.counter("frames_dropped.stranger") == 1


def test_pushes_keep_the_interval(staffed: Staff) -> None:
    a, b, _ = staffed(NAMES)
    server, worker = Worker(a, "a"), Worker(b, "b", interval=8)
    for _ in range(32):
        worker.step()
        server.step()
    assert [frame.step for frame in b.published[::2]] == [8, 16, 24, 32]


def test_values_that_are_not_finite_spread_in_neither_direction(staffed: Staff) -> None:
    a, b, _ = staffed(NAMES)
    server, worker = Worker(a, "a"), Worker(b, "b")
    with torch.no_grad():
        worker.model.weight[0, 3] = float("nan")
    for _ in range(6):
        worker.step()
        server.step()
    assert torch.isfinite(server.x).all() and torch.isfinite(worker.x).all() and worker.counter("pulls") > 0
    answers = len([frame for frame in a.published if frame.kind is Kind.STATE])
    with torch.no_grad():
        server.model.weight[0, 3] = float("nan")
    for _ in range(6):
        worker.step()
        server.step()
    assert len([frame for frame in a.published if frame.kind is Kind.STATE]) <= answers + 2  # those begun before
    assert torch.isfinite(worker.x).all()


def test_buffers_take_their_share_of_each_increment(staffed: Staff) -> None:
    a, b, _ = staffed(NAMES)

    def attached(port: Any, name: str) -> tuple[Any, Attachment]:
        model = nn.BatchNorm1d(2)
        settings = Settings(name=name, members=NAMES, exchange=ExchangeSettings(rule="async-ps"))
        return model, attach(model, None, port, settings=settings, clock=port.clock)

    (serving, server), (model, worker) = attached(a, "a"), attached(b, "b")
    with torch.no_grad():
        model.running_mean += 3.0
        model.weight += 3.0
    worker.exchange()
    server.exchange()
    assert serving.running_mean.tolist() == [1, 1] and serving.weight.tolist() == [4, 4]
    worker.exchange()
    assert model.running_mean.tolist() == [1, 1] and model.weight.tolist() == [4, 4]


def test_a_checkpoint_keeps_the_base_and_a_restore_without_one_owes_nothing(staffed: Staff) -> None:
    _, b, _ = staffed(NAMES)
    worker = Worker(b, "b")
    b.delivers = False
    worker.step()
    state = worker.attachment.state_dict()
    assert not state.get("tensors", {})["base"].any()
    worker.attachment.load_state_dict(state)
    b.delivers = True
    worker.step()
    worker.step()
    assert not torch.equal(worker.learned, torch.zeros(SIZE)) and pushed(b).any()
    state["tensors"] = {}
    worker.attachment.load_state_dict(state)
    b.published = []
    worker.step(learns=False)
    worker.step(learns=False)
    assert b.published and not pushed(b).any()


def test_copied_values_are_owed_to_nobody(staffed: Staff) -> None:
    a, b, _ = staffed(NAMES)
    worker, server = Worker(b, "b"), Worker(a, "a")
    worker.step()
    for one, rule_type in ((worker, PushRule), (server, ServeRule)):
        parts: Any = one.attachment.__dict__["_parts"]
        assert isinstance(parts.rule, rule_type)
        with torch.no_grad():
            one.model.weight.fill_(9.0)
        parts.rule.absorb(1)
        parts.rule.moved(np.arange(SIZE // 8), copied=True)
    b.published = []
    worker.step(learns=False)
    worker.step(learns=False)
    assert b.published and not pushed(b).any()
