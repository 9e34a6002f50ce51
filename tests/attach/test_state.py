"""The state rule: replicas converge, nothing is lost, the same seed gives the same frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dagrad_bus.attach.attachment import Attachment, attach
from dagrad_bus.attach.state import as_shared
from dagrad_bus.codec import Value, to_wire
from dagrad_bus.events import PeerNews
from dagrad_bus.ids import Step
from dagrad_bus.settings import ExchangeSettings, Settings
from dagrad_bus.sketch import cosine

Ports = Callable[[int], list[Any]]


def model_of(seed: int, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(9, 16), nn.BatchNorm1d(16), nn.Linear(16, 4)).to(dtype)


def attached(model: nn.Module, port: Any, **exchange: Any) -> tuple[Attachment, torch.optim.Optimizer]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    settings = Settings(exchange=replace(ExchangeSettings(density=0.1), **exchange))
    return attach(model, optimizer, port, settings=settings, clock=port.clock), optimizer


def flat(model: Any) -> Any:
    return torch.cat([value.detach().float().reshape(-1) for value in model.state_dict().values()])


def run(models: list[Any], ports: list[Any], steps: int, **exchange: Any) -> list[Attachment]:
    """Step all workers in turn, with learning rate 0: only mixing moves them."""
    made = [attached(model, port, **exchange) for model, port in zip(models, ports, strict=True)]
    for _ in range(steps):
        for _, optimizer in made:
            optimizer.step()
    return [attachment for attachment, _ in made]


@pytest.mark.parametrize("block", [1, 8, 64])
@pytest.mark.parametrize("wire", ["f32", "f16", "bf16", "int8"])
def test_replicas_with_nothing_else_to_do_move_toward_each_other(connected: Ports, block: int, wire: str) -> None:
    models = [model_of(i) for i in range(3)]
    before = (flat(models[0]) - flat(models[1])).norm()
    density = 0.5 if block == 64 else 0.1  # a frame of a single block has no stripe
    run(models, connected(3), 150, block=block, wire=wire, refresh=0.5, density=density)
    after = max((flat(models[0]) - flat(other)).norm() for other in models[1:])
    assert after < (0.03 if wire != "int8" else 0.1) * before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_models_of_other_dtypes_move_toward_each_other_too(connected: Ports, dtype: torch.dtype) -> None:
    models = [model_of(i, dtype) for i in range(2)]
    before = (flat(models[0]) - flat(models[1])).norm()
    run(models, connected(2), 150, block=8, refresh=0.5)
    assert (flat(models[0]) - flat(models[1])).norm() < 0.05 * before
    assert all(parameter.dtype == dtype for parameter in models[0].parameters())


@pytest.mark.parametrize("block", [1, 8])
def test_the_same_seed_gives_the_same_frames_bit_for_bit(connected: Ports, block: int) -> None:
    def frames() -> list[tuple[list[int], bytes, tuple[bytes, ...]]]:
        ports = connected(4)
        run([model_of(i) for i in range(4)], ports, 12, block=block, fanout=2, seed=5)
        sent = [outgoing for port in ports for outgoing in port.published]
        return [(o.selection.indices.tolist(), o.selection.values.tobytes(), o.links) for o in sent]

    assert frames() == frames()


def test_a_frame_holds_the_budget_with_its_stripe_and_rising_indices(connected: Ports) -> None:
    ports = connected(2)
    model = model_of(0)
    attachment, optimizer = attached(model, ports[0], block=1, density=0.1)
    size = sum(parameter.numel() for parameter in model.parameters())
    for _ in range(3):  # the fourth is the buffers' turn
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter)
        optimizer.step()
    assert attachment.step_count == 3 and len(ports[0].published) == 3
    for outgoing in ports[0].published:
        assert len(outgoing.selection.indices) == round(0.1 * size)
        assert (np.diff(outgoing.selection.indices) > 0).all()
        assert outgoing.refreshed == max(1, int(round(0.1 * size) / 16))


def test_interval_says_how_often(connected: Ports) -> None:
    ports = connected(2)
    run([model_of(0), model_of(1)], ports, 12, interval=4)
    assert [outgoing.step for outgoing in ports[0].published] == [4, 8, 12]


def test_without_a_ready_link_nothing_is_extracted_and_the_change_stays(connected: Ports) -> None:
    ports = connected(2)
    model = model_of(0)
    attachment, optimizer = attached(model, ports[0])
    ports[0].ready = False
    with torch.no_grad():
        model[0].weight += 1.0
    optimizer.step()
    assert not ports[0].published
    anchor = attachment.state_dict().get("tensors", {})["anchor"]
    assert torch.equal(anchor[:144] + 1.0, model[0].weight.detach().reshape(-1))


@pytest.mark.parametrize("trouble", ["accepts", "delivers"])
def test_a_lost_frame_is_repeated_and_raises_nothing(connected: Ports, trouble: str) -> None:
    ports = connected(2)
    model = model_of(0)
    _, optimizer = attached(model, ports[0], block=1, density=0.05, refresh=0.0, wire="bf16")
    with torch.no_grad():
        model[2].bias += 100.0
    setattr(ports[0], trouble, False)
    optimizer.step()
    setattr(ports[0], trouble, True)
    optimizer.step()
    again = ports[0].published[-1]
    assert again.dirty == len(again.selection.indices) == 4
    sent = torch.from_numpy(again.selection.values.view(np.int16)).view(torch.bfloat16).reshape(-1)
    assert torch.equal(sent, model[2].bias.detach().to(torch.bfloat16))


def test_integer_buffers_take_the_maximum(connected: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dagrad_bus.attach.plan.INTEGER_PERIOD", 3)
    ports = connected(2)
    models = [model_of(0), model_of(1)]
    for model, count in zip(models, (7, 40), strict=True):
        model[1].num_batches_tracked.fill_(count)
    run(models, ports, 8, block=8)
    assert [int(model[1].num_batches_tracked) for model in models] == [40, 40]
    kinds = [outgoing.value_type for outgoing in ports[0].published]
    assert kinds.count(Value.I64) == 2


def test_batch_statistics_are_mixed(connected: Ports) -> None:
    models = [model_of(0), model_of(1)]
    models[1][1].running_mean.fill_(5.0)
    run(models, connected(2), 100, refresh=0.5, w0=0.85, wire="bf16")
    assert models[0][1].running_mean.mean().item() == pytest.approx(models[1][1].running_mean.mean().item(), abs=0.1)
    assert models[0][1].running_mean.mean().item() > 0.5  # the norm bound slows the way up from zero


@pytest.mark.parametrize("block", [1, 64])
@pytest.mark.parametrize("wire", ["f32", "f16", "bf16", "int8"])
def test_a_small_variance_beside_large_ones_is_not_rounded_away(connected: Ports, block: int, wire: str) -> None:
    ports = connected(2)
    models = [model_of(0), model_of(0)]
    for model in models:  # as a channel that is nearly always silent has it
        model[1].running_var.copy_(torch.logspace(-5, 2, 16))
    run(models, ports, 40, block=block, wire=wire, density=0.5)
    for model in models:
        assert torch.allclose(model[1].running_var, torch.logspace(-5, 2, 16), rtol=2**-7, atol=0)
    sent = [outgoing for outgoing in ports[0].published if outgoing.value_type is not Value.I64]
    first = sum(parameter.numel() for parameter in models[0].parameters()) // block
    kinds = {(bool((o.selection.indices >= first).any()), bool((o.selection.indices < first).any())) for o in sent}
    assert kinds == {(True, False), (False, True)}, "buffers and parameters never share a frame"


def test_a_model_smaller_than_a_block_is_sent_whole_at_each_exchange(connected: Ports) -> None:
    ports = connected(2)
    models: list[Any] = [nn.BatchNorm1d(3), nn.BatchNorm1d(3)]
    models[1].running_var.fill_(1e-3)
    run(models, ports, 30, block=64)
    assert [o.value_type for o in ports[0].published] == [Value.BF16] * 30
    assert torch.allclose(models[0].running_var, models[1].running_var, rtol=2**-7)


def test_values_that_are_not_finite_do_not_spread(connected: Ports) -> None:
    ports = connected(2)
    models = [model_of(0), model_of(1)]
    with torch.no_grad():
        models[0][0].weight[0, :3] = torch.nan
    run(models, ports, 60, block=1, density=0.2)
    assert torch.isfinite(flat(models[1])).all()
    assert ports[0].metrics["blocks_poisoned"] > 0


def test_values_beyond_f16_travel_as_bf16(connected: Ports) -> None:
    ports = connected(2)
    model = model_of(0)
    _, optimizer = attached(model, ports[0], wire="f16")
    with torch.no_grad():
        model[0].weight += 1e6
    optimizer.step()
    assert ports[0].published[0].value_type is Value.BF16


def test_frames_of_another_shape_or_kind_are_dropped_and_counted(connected: Ports) -> None:
    ports = connected(2)
    models = [model_of(0), model_of(1)]
    attached(models[0], ports[0])
    _, optimizer = attached(models[1], ports[1], rule="local")
    _, sender = attached(model_of(2), ports[0])
    sender.step()
    before = flat(models[1]).clone()
    wide = replace(ports[1].waiting[0], selection=replace(ports[1].waiting[0].selection, indices=np.array([10**6])))
    ports[1].waiting.append(wide)
    optimizer.step()
    assert ports[1].metrics["frames_dropped.kind"] == 1
    assert ports[1].metrics["frames_dropped.layout"] == 1
    assert torch.equal(flat(models[1]), before)


@pytest.mark.parametrize("choice", ["random", "complementary", "similar"])
def test_sketches_and_comparisons_are_made_only_for_those_who_choose_by_them(connected: Ports, choice: str) -> None:
    ports = connected(3)
    made = [attached(model_of(0), port, choice=choice, fanout=1, block=8) for port in ports]
    for port in ports:
        port.news = {peer.me: PeerNews(Step(1), 1.0, bytes(8)) for peer in port.peers}
    for _ in range(40):
        for attachment, optimizer in made:
            with torch.no_grad():
                next(iter(optimizer.param_groups[0]["params"])).add_(0.01)
            optimizer.step()
            del attachment
    sketches = [sketch for port in ports for _, sketch in port.sketches]
    if choice == "random":
        assert not sketches
    else:
        assert len(sketches) >= 3 and all(len(sketch) == 8 for sketch in sketches)
        assert all(cosine(sketch, sketches[0]) > 0.9 for sketch in sketches)  # all move alike


def test_what_mixing_moves_is_no_own_change(connected: Ports) -> None:
    ports = connected(2)
    made = [attached(model_of(i), port, choice="complementary", block=8) for i, port in enumerate(ports)]
    for _ in range(150):
        for _, optimizer in made:
            optimizer.step()  # at rate 0
    assert ports[0].sketches and not any(sketch for _, sketch in ports[0].sketches)


def test_int8_counts_as_shared_what_the_receiver_decodes() -> None:
    values = np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, 8)
    shared = as_shared(values, (Value.INT8, *to_wire(values, Value.INT8)))
    assert not np.array_equal(shared, values)
    np.testing.assert_allclose(shared, values, atol=1 / 127)


@pytest.mark.parametrize("value", [Value.F32, Value.F16, Value.BF16])
def test_other_wire_types_share_the_values_themselves(value: Value) -> None:
    values = np.full((1, 8), 0.1, np.float32)
    assert as_shared(values, (value, *to_wire(values, value))) is values
