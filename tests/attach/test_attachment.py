"""``attach``: quiet alone, restartable, and an error only for what the caller can mend."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dagrad_bus
from dagrad_bus.attach.attachment import Attachment, attach
from dagrad_bus.attach.port import Silent
from dagrad_bus.errors import BusClosed, LayoutMismatch, UsageError
from dagrad_bus.events import MemberEvent
from dagrad_bus.ids import NodeId
from dagrad_bus.settings import ExchangeSettings, Settings
from dagrad_bus.topology.live import TopologySpec

Ports = Callable[[int], list[Any]]


def model_and_optimizer(seed: int = 0) -> tuple[Any, Any]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def attached(model: nn.Module, optimizer: object, port: Any, **exchange: Any) -> Attachment:
    settings = Settings(exchange=ExchangeSettings(density=0.2, **exchange))
    return attach(model, optimizer, port, settings=settings, clock=port.clock)


def train(model: Any, optimizer: Any, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(3, 4)).square().sum().backward()
        optimizer.step()


def test_a_density_out_of_range_is_refused_and_alone_none_matters() -> None:
    model, optimizer = model_and_optimizer()
    with attach(model, optimizer, settings=Settings()) as attachment:
        attachment.set_density(1.0)
        with pytest.raises(UsageError, match=r"density is 1.5: needs a share in \(0, 1\]"):
            attachment.set_density(1.5)


def test_alone_everything_is_there_and_nothing_happens() -> None:
    model, optimizer = model_and_optimizer()
    twin, its_optimizer = model_and_optimizer()
    memory = model[0].weight.data_ptr()
    with attach(model, optimizer, settings=Settings()) as attachment:
        train(model, optimizer, 3)
        attachment.log(loss=torch.tensor(1.0, requires_grad=True), accuracy=0.5)
        assert (attachment.index, attachment.count, attachment.name) == (0, 1, "local.0")
        assert attachment.is_alone and attachment.layout is None and attachment.step_count == 3
        attachment.load_state_dict(attachment.state_dict())
        assert set(attachment.metrics()) == {"counters", "gauges", "histograms"}
    train(twin, its_optimizer, 3)
    assert model[0].weight.data_ptr() == memory
    assert torch.equal(model[0].weight, twin[0].weight)


def test_the_package_itself_can_be_called_and_loads_nothing_early() -> None:
    program = (
        "import sys, dagrad_bus, dagrad_bus.attach\n"
        "assert not {'torch', 'zmq'} & set(sys.modules), 'loaded early'\n"
        "from dagrad_bus import attach\n"
        "assert callable(attach) and callable(dagrad_bus.attach)\n"
        "import dagrad_bus.attach.port\n"
        "assert dagrad_bus.attach.attach.__name__ == 'attach'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=os.getcwd(), timeout=60)
    assert isinstance(dagrad_bus.attach(*model_and_optimizer(), settings=Settings()), Attachment)


def test_position_in_the_launched_list(connected: Ports) -> None:
    settings = Settings(name="b.0", members=("a.0", "b.0", "c.0"))
    attachment = attach(*model_and_optimizer(), connected(2)[0], settings=settings)
    assert (attachment.index, attachment.count, attachment.name) == (1, 3, "b.0")


def test_many_processes_under_another_launcher_are_warned(connected: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.warns(UserWarning, match="WORLD_SIZE is 4"):
        attached(*model_and_optimizer(), connected(2)[0])


def test_a_layout_that_no_peer_shares_is_raised_at_the_next_step(connected: Ports) -> None:
    port, _ = connected(2)
    model, optimizer = model_and_optimizer()
    attached(model, optimizer, port)
    train(model, optimizer, 1)
    port.error = LayoutMismatch("another model")
    with pytest.raises(LayoutMismatch):
        train(model, optimizer, 1)


def test_a_model_cast_after_attaching_is_noticed_at_the_next_step(connected: Ports) -> None:
    port, _ = connected(2)
    model, optimizer = model_and_optimizer()
    attached(model, optimizer, port)
    train(model, optimizer, 1)
    model.double()
    with pytest.raises(UsageError, match="attach again"):
        optimizer.step()


def test_use_after_close_and_in_a_forked_child_are_errors(connected: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    port, _ = connected(2)
    attachment = attached(*model_and_optimizer(), port)
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    with pytest.raises(UsageError, match="fork"):
        attachment.exchange()
    monkeypatch.undo()
    attachment.close()
    with pytest.raises(BusClosed):
        attachment.log(loss=1.0)


def test_loops_without_hooks_call_exchange(connected: Ports) -> None:
    port, _ = connected(2)
    model, _ = model_and_optimizer()
    attachment = attached(model, None, port)
    for _ in range(3):
        attachment.exchange()
    assert attachment.step_count == 3


@pytest.mark.parametrize("rule", ["state", "gradient", "local"])
@pytest.mark.parametrize("block", [1, 8])
def test_a_restored_run_goes_on_as_if_it_had_not_stopped(connected: Ports, rule: str, block: int) -> None:
    """Frames of the second half are bit-identical; the checkpoint loads with ``weights_only=True``.

    Without stripes: a restore makes new links, and those begin at the common frontier.
    """
    chosen = {"rule": rule, "block": block, "fanout": 2, "seed": 3, "tau": 1.0, "refresh": 0.0}

    def frames(interrupt: bool) -> list[bytes]:
        ports = connected(4)
        model, optimizer = model_and_optimizer()
        attachment = attached(model, optimizer, ports[0], **chosen)
        train(model, optimizer, 6)
        if interrupt:
            saved = io.BytesIO()
            parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "bus": attachment.state_dict()}
            torch.save(parts, saved)
            saved.seek(0)
            loaded = torch.load(saved, weights_only=True)
            model, optimizer = model_and_optimizer(1)
            model.load_state_dict(loaded["model"])
            optimizer.load_state_dict(loaded["optimizer"])
            attachment = attached(model, optimizer, ports[0], **chosen)
            attachment.load_state_dict(loaded["bus"])
        train(model, optimizer, 6)
        assert attachment.step_count == 12
        return [o.selection.indices.tobytes() + o.selection.values.tobytes() for o in ports[0].published]

    assert frames(interrupt=True) == frames(interrupt=False)


def test_a_checkpoint_of_another_model_is_refused(connected: Ports) -> None:
    ports = connected(2)
    attachment = attached(*model_and_optimizer(), ports[0])
    other = nn.Linear(3, 3)
    state = attached(other, torch.optim.SGD(other.parameters(), lr=0.1), ports[1]).state_dict()
    with pytest.raises(UsageError, match="layout"):
        attachment.load_state_dict(state)


def test_samples_are_taken_at_the_same_steps_and_places_everywhere(connected: Ports) -> None:
    ports = connected(2)
    pairs = [model_and_optimizer(i) for i in range(2)]
    for (model, optimizer), port in zip(pairs, ports, strict=True):
        attached(model, optimizer, port)
        train(model, optimizer, 20)
    assert [step for step, _ in ports[0].samples] == [5, 10, 15, 20] == [step for step, _ in ports[1].samples]
    size = sum(parameter.numel() for parameter in pairs[0][0].parameters())
    assert all(len(values) == size for _, values in ports[0].samples)


def test_what_happens_on_the_network_raises_nothing(connected: Ports) -> None:
    ports = connected(3)
    model, optimizer = model_and_optimizer()
    attached(model, optimizer, ports[0])
    rng = np.random.default_rng(0)
    for _ in range(40):
        ports[0].ready, ports[0].accepts, ports[0].delivers = (bool(v) for v in rng.random(3) < 0.6)
        ports[0].peers = ports[1 : 1 + int(rng.integers(0, 3))]
        train(model, optimizer, 1)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_what_happens_to_members_is_told_at_the_step_boundary(connected: Ports) -> None:
    port, _ = connected(2)
    model, optimizer = model_and_optimizer()
    told: list[str] = []
    with attached(model, optimizer, port) as attachment:
        attachment.on_member(lambda event: told.append(f"{event.name} {event.kind}"))
        port.events = [MemberEvent(NodeId(bytes(16)), "w1", "suspect"), MemberEvent(NodeId(bytes(16)), "w1", "dead")]
        assert told == []
        train(model, optimizer, 2)
        assert told == ["w1 suspect", "w1 dead"]
        assert set(attachment.members.values()) == {"alive"}


def test_a_graph_is_handed_to_the_bus(connected: Ports) -> None:
    port, _ = connected(2)
    model, optimizer = model_and_optimizer()
    spec = TopologySpec(version=1, kind="ring")
    attachment = attached(model, optimizer, port)
    assert attachment.rewire(spec)
    assert port.specs == [spec]
    attachment.close()
    with pytest.raises(BusClosed):
        attachment.rewire(spec)


def test_one_that_joined_later_has_a_place_among_those_launched() -> None:
    names = ("a", "b", "c")
    places: set[int] = set()
    for number in range(20):
        settings = Settings(name=f"late{number}", members=names, seeds=(("a", "tcp://h:1"),))
        places.add(Attachment(settings, Silent(), None, []).index)
    assert places == {0, 1, 2}
