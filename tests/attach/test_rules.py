"""Each name gives its rule; the local one exchanges nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from dagrad_bus.attach.async_ps import PushRule, ServeRule
from dagrad_bus.attach.exchange import Exchange
from dagrad_bus.attach.gossip import PairRule
from dagrad_bus.attach.quantized import QuantizedRule
from dagrad_bus.attach.replica import Replica
from dagrad_bus.attach.role import Role
from dagrad_bus.attach.rules import KINDS, block_of, make_rule, restore
from dagrad_bus.attach.sync_ps import SyncServerRule
from dagrad_bus.errors import UsageError
from dagrad_bus.settings import ExchangeSettings, RuleName

Ports = Callable[[int], list[Any]]


@pytest.mark.parametrize(
    ("name", "needs", "keeps"),
    [("state", False, "anchor"), ("gradient", True, "residual"), ("choco", False, "anchor")],
)
def test_a_rule_says_what_it_needs_and_keeps(connected: Ports, name: RuleName, needs: bool, keeps: str) -> None:
    port, _ = connected(2)
    replica = Replica(nn.Linear(3, 3), [])
    exchange = Exchange(replica.layout, replace(ExchangeSettings(), rule=name), port, KINDS[name], port.clock)
    rule = make_rule(name, replica, exchange)
    assert rule.needs_gradient is needs and set(rule.tensors()) == {keeps}
    restore(rule, {keeps: torch.ones(12)})
    assert torch.equal(rule.tensors()[keeps], torch.ones(12))
    restore(rule, {})
    assert not torch.equal(rule.tensors()[keeps], torch.ones(12))
    with pytest.raises(UsageError, match="this model needs 12"):
        restore(rule, {keeps: torch.ones(5)})


@pytest.mark.parametrize(("name", "kind"), [("gossip-dense", PairRule), ("gossip-qsgd", QuantizedRule)])
def test_dense_gossip_keeps_nothing_and_takes_buckets(connected: Ports, name: RuleName, kind: type) -> None:
    port, _ = connected(2)
    settings = ExchangeSettings(rule=name)
    replica = Replica(nn.Linear(30, 30), [], block_of(settings))
    assert replica.layout.block == 64 and block_of(replace(settings, block=8)) == 8
    assert block_of(ExchangeSettings()) == 0
    exchange = Exchange(replica.layout, settings, port, KINDS[name], port.clock)
    rule = make_rule(name, replica, exchange, who="a")
    assert type(rule) is kind and not rule.tensors() and not rule.needs_gradient
    restore(rule, {})


@pytest.mark.parametrize("block", [1, 64])
@pytest.mark.parametrize("name", ["choco", "gossip-qsgd"])
def test_no_rule_rounds_a_small_variance_away(connected: Ports, name: RuleName, block: int) -> None:
    settings = ExchangeSettings(rule=name, density=0.3, block=64 if name == "gossip-qsgd" else block)
    variances, made = torch.logspace(-5, 2, 90), list[Any]()
    for port in connected(2):
        model: Any = nn.Sequential(nn.Linear(4, 90), nn.BatchNorm1d(90))
        model[1].running_var.copy_(variances)
        replica = Replica(model, [], settings.block)
        exchange = Exchange(replica.layout, settings, port, KINDS[name], port.clock)
        made.append((model, port, make_rule(name, replica, exchange, who=port.me.hex())))
    for step in range(1, 31):
        for _, _, rule in made:
            rule.after_step(step)
    first = (2 * 90 + 4 * 90) // settings.block
    for model, port, _ in made:
        assert torch.allclose(model[1].running_var, variances, rtol=2**-7, atol=0)
        assert max(outgoing.selection.indices[-1] for outgoing in port.published) > first, "they do travel"


def test_the_local_rule_keeps_and_sends_nothing(connected: Ports) -> None:
    port, _ = connected(2)
    replica = Replica(nn.Linear(3, 3), [])
    exchange = Exchange(replica.layout, ExchangeSettings(rule="local"), port, KINDS["local"], port.clock)
    rule = make_rule("local", replica, exchange)
    rule.before_step(1.0)
    rule.after_step(1)
    rule.restart()
    assert not port.published and not rule.tensors() and not rule.needs_gradient


@pytest.mark.parametrize("server", [True, False])
@pytest.mark.parametrize(("name", "kinds"), [("sync-ps", [SyncServerRule] * 2), ("async-ps", [ServeRule, PushRule])])
def test_a_rule_with_a_server_needs_to_know_who_serves(
    staffed: Callable[[Sequence[str]], list[Any]], name: RuleName, kinds: list[type], server: bool
) -> None:
    ports = staffed(("a", "b"))
    replica = Replica(nn.Linear(3, 3), [])
    exchange = Exchange(replica.layout, ExchangeSettings(rule=name), ports[0], KINDS[name], ports[0].clock)
    with pytest.raises(UsageError, match=f"rule {name} needs a role"):
        make_rule(name, replica, exchange)
    me = ports[0 if server else 1].me
    rule = make_rule(name, replica, exchange, Role(me, tuple(port.me for port in ports)))
    assert type(rule) is kinds[0 if server else 1] and rule.needs_gradient is (name == "sync-ps")
    restore(rule, {})
