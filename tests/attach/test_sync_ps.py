"""N workers step as one with the batches of all; whoever is lost is left out, and nobody waits for ever."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dagrad_bus.attach.attachment import Attachment, attach
from dagrad_bus.attach.sync_ps import Aggregator, SyncServerRule
from dagrad_bus.codec import Value
from dagrad_bus.errors import BarrierBroken, LayoutMismatch, UsageError
from dagrad_bus.events import Arrival, MemberEvent, Selection
from dagrad_bus.ids import NodeId, Step
from dagrad_bus.settings import ExchangeSettings, LinkSettings, Settings
from dagrad_bus.wire import Kind
from dagrad_bus.workers.loop import CRASH

Staff = Callable[[Sequence[str]], list[Any]]
Batch = tuple[Tensor, Tensor]
NAMES = ("a", "b", "c")
SMALL = LinkSettings(max_frame=65536)


def build(dtype: torch.dtype = torch.float32, width: int = 8) -> Any:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 3)).to(dtype)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def batches(worker: int, steps: int, dtype: torch.dtype = torch.float32) -> list[Batch]:
    chance = torch.Generator().manual_seed(worker)
    return [
        (torch.randn(5, 6, generator=chance).to(dtype), torch.randn(5, 3, generator=chance).to(dtype))
        for _ in range(steps)
    ]


def loss_of(model: Any, batch: Batch) -> Tensor:
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def weights(model: nn.Module) -> Tensor:
    return torch.cat([value.detach().reshape(-1).double() for value in model.state_dict().values()])


def large_batch(model: Any, optimizer: torch.optim.Optimizer, parts: Sequence[Batch]) -> None:
    """Do one step with the mean over the parts of the gradient of each: the sum in their order, divided by how many."""
    total: list[Tensor] = []
    for part in parts:
        found = torch.autograd.grad(loss_of(model, part), list(model.parameters()))
        total = [one + other for one, other in zip(total, found, strict=True)] if total else list(found)
    for parameter, gradient in zip(model.parameters(), total, strict=True):
        parameter.grad = gradient / len(parts)
    optimizer.step()


def test_in_float64_the_mean_of_the_aggregator_is_large_batch_sgd_bit_for_bit() -> None:
    double, steps = torch.float64, 12
    data = [batches(worker, steps, double) for worker in range(3)]
    oracle, union = build(double), build(double)
    its_optimizer, optimizer_of_union = sgd(oracle), sgd(union)
    workers = [build(double) for _ in NAMES]
    optimizers = [sgd(model) for model in workers]
    ids = [NodeId(name.encode() * 16) for name in NAMES]
    server: Aggregator[np.float64] = Aggregator(ids)
    for step in range(steps):
        server.begin()
        for place in np.random.default_rng(step).permutation(3):  # in whatever order they arrive
            model = workers[place]
            model.zero_grad()
            loss_of(model, data[place][step]).backward()  # type: ignore[no-untyped-call]  # torch's
            flat = torch.cat([parameter.grad.reshape(-1) for parameter in model.parameters()])
            server.put(ids[int(place)], step + 1, flat.numpy())
        mean = torch.from_numpy(server.mean())
        for model, optimizer in zip(workers, optimizers, strict=True):
            gradients = [torch.empty_like(parameter) for parameter in model.parameters()]
            nn.utils.vector_to_parameters(mean, gradients)
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
        large_batch(oracle, its_optimizer, [data[place][step] for place in range(3)])
        optimizer_of_union.zero_grad()
        together = [torch.cat([data[place][step][k] for place in range(3)]) for k in (0, 1)]
        loss_of(union, (together[0], together[1])).backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer_of_union.step()
    for model in workers:
        assert torch.equal(weights(model), weights(oracle))
    torch.testing.assert_close(weights(oracle), weights(union), rtol=1e-12, atol=1e-14)


def attached(port: Any, name: str, model: Any, optimizer: Any, names: Sequence[str] = NAMES, **top: Any) -> Attachment:
    """Attach under ``sync-ps``, on the clock of the wall: each worker has a thread."""
    settings = Settings(name=name, members=tuple(names), exchange=ExchangeSettings(rule="sync-ps"), **top)
    return attach(model, optimizer, port, settings=settings, clock=time.monotonic)


def train(model: Any, optimizer: Any, data: Sequence[Batch]) -> None:
    for batch in data:
        optimizer.zero_grad()
        loss_of(model, batch).backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()


def run_all(
    ports: Sequence[Any], steps: int, width: int, make: Callable[[nn.Module], Any] = sgd, **top: Any
) -> list[Any]:
    """Let each member train in a thread of its own; return the models."""
    models = [build(width=width) for _ in ports]

    def one(place: int) -> None:
        optimizer = make(models[place])
        with attached(ports[place], NAMES[place], models[place], optimizer, **top):
            train(models[place], optimizer, batches(place, steps))
            optimizer.zero_grad()
            optimizer.step()  # without a gradient: no round

    with ThreadPoolExecutor(len(ports)) as threads:
        for future in [threads.submit(one, place) for place in range(len(ports))]:
            future.result(20)
    return models


def oracle_of(steps: int, width: int, make: Callable[[nn.Module], Any] = sgd) -> Any:
    model = build(width=width)
    optimizer = make(model)
    data = [batches(worker, steps) for worker in range(3)]
    for step in range(steps):
        large_batch(model, optimizer, [parts[step] for parts in data])
    return model


@pytest.mark.parametrize("make", [sgd, adam])
def test_attached_workers_are_one_worker_with_a_large_batch_bit_for_bit(staffed: Staff, make: Any) -> None:
    ports = staffed(NAMES)
    models = run_all(ports, 8, 8, make)
    expected = weights(oracle_of(8, 8, make))
    assert all(torch.equal(weights(model), expected) for model in models)
    assert [len(port.published) for port in ports] == [8, 8, 8]  # the mean goes to all in one frame
    assert [port.metrics.snapshot()["counters"]["frames_mixed"] for port in ports] == [16, 8, 8]
    assert all(port.metrics.snapshot()["counters"]["rounds"] == 8 for port in ports)


def test_vectors_of_several_frames_that_get_lost_or_repeated_change_nothing(staffed: Staff) -> None:
    ports = staffed(NAMES)
    for place, port in enumerate(ports):
        chance = np.random.default_rng(place)
        bad = chance.random((2, 2000)) < 0.3
        port.drops, port.lies = (set(np.flatnonzero(row).tolist()) for row in bad)
    models = run_all(ports, 5, 3000, link=SMALL)  # 30 003 parameters: two frames
    expected = weights(oracle_of(5, 3000))
    assert all(torch.equal(weights(model), expected) for model in models)


def test_statistics_of_batch_norm_become_their_mean(staffed: Staff) -> None:
    ports = staffed(("a", "b"))
    models = [nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)) for _ in ports]
    models[1].load_state_dict(models[0].state_dict())
    twins = [nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)) for _ in ports]
    for twin, place in zip(twins, range(2), strict=True):
        twin.load_state_dict({k: v for k, v in models[0].state_dict().items() if not k.startswith("2.")})
        twin(batches(place, 1)[0][0])

    def one(place: int) -> None:
        optimizer = sgd(models[place])
        with attached(ports[place], NAMES[place], models[place], optimizer, NAMES[:2]):
            train(models[place], optimizer, batches(place, 1))

    with ThreadPoolExecutor(2) as threads:
        for future in [threads.submit(one, place) for place in range(2)]:
            future.result(20)
    for name in ("running_mean", "running_var"):
        found = [getattr(model[1], name) for model in models]
        assert torch.equal(found[0], found[1])
        torch.testing.assert_close(found[0], (getattr(twins[0][1], name) + getattr(twins[1][1], name)) / 2)


# One side, with the other one's frames by hand -------------------------------------------------------------------


def line() -> Any:
    torch.manual_seed(1)
    return nn.Linear(4, 1, bias=False)


def alone(port: Any, name: str, names: Sequence[str] = NAMES) -> tuple[Any, Any, Attachment]:
    """Attach one worker, whose waiting passes on the clock of its port."""
    model = line()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    settings = Settings(name=name, members=tuple(names), exchange=ExchangeSettings(rule="sync-ps"))
    return model, optimizer, attach(model, optimizer, port, settings=settings, clock=port.clock)


def frame(sender: Any, number: int, values: Sequence[float]) -> Arrival:
    chosen = Selection(np.arange(len(values)), np.array(values, np.float32)[:, None])
    return Arrival(sender.me, Kind.GRADIENT, Value.F32, chosen, Step(number), 1.0, 0.0, 0.0)


def step(model: Any, optimizer: Any, gradient: Sequence[float]) -> list[float]:
    """Step with this gradient; return by which gradient the model moved."""
    before = model.weight.detach().clone()
    model.weight.grad = torch.tensor([gradient], dtype=torch.float32)
    optimizer.step()
    return [round(value, 5) for value in (before - model.weight.detach()).view(-1).tolist()]


@pytest.mark.parametrize("kind", ["dead", "left", "rejoined"])
def test_the_server_leaves_out_who_is_lost_and_tells_it(staffed: Staff, kind: str) -> None:
    server, b, c = staffed(NAMES)
    model, optimizer, attachment = alone(server, "a")
    server.waiting = [frame(b, 1, [3, 3, 3, 3]), frame(c, 1, [2, 2, 2, 2])]
    assert step(model, optimizer, [1, 1, 1, 1]) == [2, 2, 2, 2]
    server.waiting = [frame(b, 2, [3, 3, 3, 3])]
    server.events = [MemberEvent(c.me, "c", kind)]
    assert step(model, optimizer, [1, 1, 1, 1]) == [2, 2, 2, 2]
    c.view()
    server.waiting = [frame(b, 3, [5, 5, 5, 5]), frame(c, 1, [9, 9, 9, 9])]  # c is back and counts from 1
    assert step(model, optimizer, [1, 1, 1, 1]) == [3, 3, 3, 3]
    told: tuple[Arrival, ...] = c.view().arrivals
    assert [arrival.step for arrival in told] == [5]  # a round that c cannot have come to
    assert attachment.metrics()["counters"]["members_left_out"] == 1


def test_a_worker_that_counts_from_one_again_is_left_out_before_its_death_is_known(staffed: Staff) -> None:
    server, b, c = staffed(NAMES)
    model, optimizer, _ = alone(server, "a")
    for number in (1, 2):
        server.waiting = [frame(b, number, [1] * 4), frame(c, number, [1] * 4)]
        step(model, optimizer, [1] * 4)
    server.waiting = [frame(c, 1, [9] * 4), frame(b, 3, [3] * 4)]
    assert step(model, optimizer, [1] * 4) == [2, 2, 2, 2]


def test_an_earlier_life_that_a_folder_told_of_loses_nobody_its_place(staffed: Staff) -> None:
    server, b = staffed(NAMES[:2])
    model, optimizer, _ = alone(server, "a", NAMES[:2])
    server.events = [MemberEvent(b.me, "b", "rejoined")]
    server.waiting = [frame(b, 1, [3] * 4)]
    assert step(model, optimizer, [1] * 4) == [2] * 4


def test_gradients_that_come_early_wait_for_their_round(staffed: Staff) -> None:
    server, b = staffed(NAMES[:2])
    model, optimizer, _ = alone(server, "a", NAMES[:2])
    server.waiting = [frame(b, 1, [3] * 4), frame(b, 2, [5] * 4), frame(b, 1, [7] * 4)]
    assert step(model, optimizer, [1] * 4) == [2] * 4
    assert step(model, optimizer, [1] * 4) == [3] * 4


def test_the_server_names_whom_it_waited_for_in_vain(staffed: Staff) -> None:
    server, b, _ = staffed(NAMES)
    model, optimizer, _ = alone(server, "a")
    server.waiting = [frame(b, 1, [1] * 4)]
    with pytest.raises(BarrierBroken, match=r"round 1: nothing of c for 60 s; .* graph is complete"):
        step(model, optimizer, [1] * 4)


@pytest.mark.parametrize(("kind", "words"), [("dead", "died"), ("left", "has left"), ("rejoined", "started again")])
def test_without_the_server_a_worker_ends(staffed: Staff, kind: str, words: str) -> None:
    server, port, _ = staffed(NAMES)
    model, optimizer, _ = alone(port, "b")
    port.waiting = [frame(server, 1, [2] * 4)]
    step(model, optimizer, [1] * 4)
    port.events = [MemberEvent(server.me, "a", kind)]
    with pytest.raises(BarrierBroken, match=rf"round 2: the server a .*{words}"):
        step(model, optimizer, [1] * 4)


def test_a_worker_waits_for_a_bounded_time(staffed: Staff) -> None:
    server, port, _ = staffed(NAMES)
    model, optimizer, _ = alone(port, "b")
    with pytest.raises(BarrierBroken, match="nothing of a for 60 s"):
        step(model, optimizer, [1] * 4)
    assert [arrival.step for arrival in server.waiting] == [1]


def test_the_last_mean_is_taken_though_its_server_has_left(staffed: Staff) -> None:
    server, port, _ = staffed(NAMES)
    model, optimizer, _ = alone(port, "b")
    port.waiting = [frame(server, 1, [2] * 4)]
    port.events = [MemberEvent(server.me, "a", "left")]
    assert step(model, optimizer, [1] * 4) == [2] * 4


def test_a_worker_that_was_left_out_says_so(staffed: Staff) -> None:
    server, port, other = staffed(NAMES)
    model, optimizer, _ = alone(port, "b")
    port.waiting = [frame(other, 1, [5] * 4), frame(server, 9, [0])]
    with pytest.raises(BarrierBroken, match="goes on without this worker, which is in round 1"):
        step(model, optimizer, [1] * 4)
    assert port.metrics.snapshot()["counters"]["frames_dropped.stranger"] == 1


def test_a_server_that_was_started_again_says_so(staffed: Staff) -> None:
    server, b, _ = staffed(NAMES)
    model, optimizer, _ = alone(server, "a")
    server.waiting = [frame(b, 57, [1] * 4)]
    with pytest.raises(BarrierBroken, match="b is in round 57 and this server in 1"):
        step(model, optimizer, [1] * 4)


def test_what_must_stop_the_program_stops_it_while_it_waits(staffed: Staff) -> None:
    _, port, _ = staffed(NAMES)
    model, optimizer, _ = alone(port, "b")
    found = iter([None, None])
    port.failure = lambda: next(found, LayoutMismatch("another model"))
    with pytest.raises(LayoutMismatch):
        step(model, optimizer, [1] * 4)


def test_gradients_that_are_not_finite_are_sent_as_zeros(staffed: Staff) -> None:
    server, b = staffed(NAMES[:2])
    model, optimizer, _ = alone(server, "a", NAMES[:2])
    server.waiting = [frame(b, 1, [3] * 4)]
    assert step(model, optimizer, [1, float("inf"), float("nan"), 1]) == [2, 1.5, 1.5, 2]


def test_gradients_under_a_scale_are_averaged_without_it(staffed: Staff) -> None:
    server, b = staffed(NAMES[:2])
    model, _, attachment = alone(server, "a", NAMES[:2])
    attachment.close()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
    settings = Settings(name="a", members=NAMES[:2], exchange=ExchangeSettings(rule="sync-ps"))
    attach(model, optimizer, server, settings=settings, clock=server.clock)
    optimizer.grad_scale = torch.tensor(32.0)  # type: ignore[attr-defined]  # as GradScaler sets it
    server.waiting = [frame(b, 1, [3] * 4)]
    assert step(model, optimizer, [32] * 4) == [2] * 4


def test_whoever_leaves_last_stays_until_its_mean_has_arrived(staffed: Staff) -> None:
    server, b = staffed(NAMES[:2])
    server.drops = range(3)
    model, optimizer, attachment = alone(server, "a", NAMES[:2])
    server.waiting = [frame(b, 1, [3] * 4)]
    step(model, optimizer, [1] * 4)
    assert not b.waiting
    attachment.close()
    assert [arrival.step for arrival in b.waiting] == [1] and server.closed == 1


def test_a_bus_that_fails_does_not_keep_a_server_from_leaving(staffed: Staff) -> None:
    server, b = staffed(NAMES[:2])
    server.delivers = False
    model, optimizer, attachment = alone(server, "a", NAMES[:2])
    server.waiting = [frame(b, 1, [3] * 4)]
    step(model, optimizer, [1] * 4)
    server.error = LayoutMismatch("another model")
    attachment.close()
    assert server.closed == 1


def test_after_an_error_nobody_is_waited_for(staffed: Staff) -> None:
    server, b = staffed(NAMES[:2])
    server.delivers = False
    model, optimizer, attachment = alone(server, "a", NAMES[:2])
    server.waiting = [frame(b, 1, [3] * 4)]
    step(model, optimizer, [1] * 4)
    sent = len(server.published)
    with pytest.raises(ZeroDivisionError), attachment:
        raise ZeroDivisionError
    assert len(server.published) == sent and server.closed == 1


def test_it_needs_one_optimizer_and_counts_rounds_anew_after_a_restore(staffed: Staff) -> None:
    server, b = staffed(NAMES[:2])
    settings = Settings(name="a", members=NAMES[:2], exchange=ExchangeSettings(rule="sync-ps"))
    with pytest.raises(UsageError, match="exactly one optimizer, not 0"):
        attach(line(), None, server, settings=settings)
    model, optimizer, attachment = alone(server, "a", NAMES[:2])
    server.waiting = [frame(b, 1, [3] * 4)]
    step(model, optimizer, [1] * 4)
    attachment.load_state_dict(attachment.state_dict())
    server.waiting = [frame(b, 1, [5] * 4)]
    assert step(model, optimizer, [1] * 4) == [3] * 4
    assert not attachment.sync()  # no state is transferred: replicas are equal
    assert SyncServerRule.needs_gradient


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_in_a_real_run_the_survivors_of_a_crash_end_equal(tmp_path: Path) -> None:
    run = [sys.executable, "-c", "from dagrad_bus.tools.cli import main; main()", "run", "-n", "3", "--dir", "run"]
    how = [
        "--rule",
        "sync-ps",
        "--topology",
        "complete",
        "--on-failure",
        "continue",
        "--no-figures",
        "--progress",
        "none",
    ]
    work = ["--steps", "40", "--pace", "0.05", "--linger", "1", "--fail", "local.2:15"]
    program = [sys.executable, "-m", "dagrad_bus.workers.digits", *work]
    ended = subprocess.run([*run, *how, "--", *program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == CRASH, ended.stderr
    finals = [np.load(tmp_path / "run" / "final" / f"local.{number}.npy") for number in range(2)]
    assert np.array_equal(finals[0], finals[1])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["mixing"]["verdict"] == "mixed" and not any(distance for _, distance in summary["consensus"])
    assert all(worker["steps"] >= 40 for worker in summary["workers"][:2])
