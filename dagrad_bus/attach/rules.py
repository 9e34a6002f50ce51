"""What is exchanged: one rule an object behind one interface; neither the bus nor the hooks know which one runs.

* :class:`StateRule` (default): absolute values; received ones are mixed, idempotent and tolerant of loss.
* :class:`GradientRule`: increments, added to an error-feedback buffer, as the DAGrad paper's text says.
* :class:`LocalRule`: no exchange, the lower bound of every comparison.
* :class:`SyncServerRule`, :class:`PushRule` with :class:`ServeRule`: SGD with a parameter server, synchronous and not.
* :class:`PairRule`, :class:`QuantizedRule`, :class:`ChocoRule`: AD-PSGD, QSGD gossip and CHOCO-SGD.

Source: Vinitha et al., Decentralized Asynchronous Gradient Sharing for Bandwidth-Efficient Collaborative Model
Training (gradient rule).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from dagrad_bus.attach.async_ps import PushRule, ServeRule
from dagrad_bus.attach.choco import ChocoRule
from dagrad_bus.attach.exchange import Exchange
from dagrad_bus.attach.gossip import PairRule
from dagrad_bus.attach.gradient import GradientRule
from dagrad_bus.attach.plan import Indices
from dagrad_bus.attach.quantized import QuantizedRule
from dagrad_bus.attach.replica import Replica
from dagrad_bus.attach.role import Role
from dagrad_bus.attach.state import StateRule
from dagrad_bus.attach.sync_ps import SyncServerRule
from dagrad_bus.blocks import LARGE_BLOCK
from dagrad_bus.errors import UsageError
from dagrad_bus.settings import SERVED, ExchangeSettings, RuleName
from dagrad_bus.wire import Kind


class Rule(Protocol):
    """What happens at a step boundary. Called by one thread, without gradient recording."""

    needs_gradient: bool
    """Whether :meth:`before_step` must run when the gradient exists and the optimizer has not stepped."""

    def before_step(self, scale: float) -> None:
        """Use and replace the gradients; ``scale`` is the loss scale they carry (1 without a fused scaler)."""
        ...

    def after_step(self, step: int) -> None:
        """Exchange after local step ``step``, counted from 1."""
        ...

    def absorb(self, step: int) -> None:
        """Take what arrived without publishing anything: the worker waits after local step ``step``."""
        ...

    def moved(self, indices: Indices, *, copied: bool) -> None:
        """Note that a state transfer has set the blocks ``indices`` of the replica, just after a boundary.

        ``copied``: to a peer's values, so that nothing of the own past is in them.
        """
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps, float32[P] each."""
        ...

    def restart(self) -> None:
        """Start from the replica's present values: nothing is owed to anybody."""
        ...


class LocalRule:
    """No exchange. Arrivals are swapped out and dropped, so that peers that do exchange are not held up."""

    needs_gradient = False

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def before_step(self, scale: float) -> None:
        """Do nothing."""

    def after_step(self, step: int) -> None:
        """Drop what arrived."""
        del step
        self._exchange.receive()

    def absorb(self, step: int) -> None:
        """Drop what arrived."""
        self.after_step(step)

    def moved(self, indices: Indices, *, copied: bool) -> None:
        """Do nothing."""

    def tensors(self) -> dict[str, Tensor]:
        """Return nothing: there is no state."""
        return {}

    def restart(self) -> None:
        """Do nothing."""


KINDS: dict[RuleName, frozenset[Kind]] = {
    "state": frozenset({Kind.STATE}),
    "gradient": frozenset({Kind.GRADIENT}),
    "local": frozenset(),
    "sync-ps": frozenset({Kind.GRADIENT}),
    "async-ps": frozenset({Kind.GRADIENT, Kind.STATE}),
    "gossip-dense": frozenset({Kind.GRADIENT, Kind.STATE}),
    "gossip-qsgd": frozenset({Kind.STATE}),
    "choco": frozenset({Kind.STATE}),
}
"""The kinds of frames each rule mixes."""
ON_GRADIENTS: frozenset[RuleName] = frozenset({"gradient", "sync-ps"})
"""Rules that replace the gradients inside ``optimizer.step()``: they need exactly one optimizer."""
LOCKSTEP: frozenset[RuleName] = frozenset({"sync-ps"})
"""Rules whose replicas are equal at each step. No state is transferred: what is copied while the others go on belongs to
several steps, and would never be equal to theirs again."""
SUMMED: frozenset[RuleName] = frozenset({"async-ps"})
"""Rules whose workers owe increments. State is copied, but never mixed after a partition: the difference would be owed."""

DENSE: frozenset[RuleName] = frozenset({"gossip-dense", "gossip-qsgd"})
"""Rules whose frames hold all blocks: single elements would cost time, and a scale each make no sense."""


def block_of(settings: ExchangeSettings) -> int:
    """Return the elements a block that a replica is made with, 0 to choose by its size."""
    return settings.block or (LARGE_BLOCK if settings.rule in DENSE else 0)


def make_rule(name: RuleName, replica: Replica, exchange: Exchange, role: Role | None = None, who: str = "") -> Rule:
    """Return the rule called ``name``.

    Args:
        name: of the rule.
        replica: what it moves.
        exchange: what it sends by.
        role: who serves, for rules with a server.
        who: the worker's name, for chance that is each worker's own.

    Raises:
        UsageError: a rule with a server was given no role, or the blocks are too small for the rule.
    """
    if name in SERVED:
        return _with_server(name, replica, exchange, role)
    if name == "state":
        return StateRule(replica, exchange)
    if name == "gradient":
        return GradientRule(replica, exchange)
    if name == "gossip-dense":
        return PairRule(replica, exchange, who)
    if name == "gossip-qsgd":
        return QuantizedRule(replica, exchange, who)
    if name == "choco":
        return ChocoRule(replica, exchange)
    return LocalRule(exchange)


def _with_server(name: RuleName, replica: Replica, exchange: Exchange, role: Role | None) -> Rule:
    if role is None:
        raise UsageError(f"rule {name} needs a role: it has a server")
    if name == "sync-ps":
        return SyncServerRule(replica, exchange, role)
    return ServeRule(replica, exchange, role) if role.is_server else PushRule(replica, exchange, role)


def restore(rule: Rule, saved: dict[str, Tensor]) -> None:
    """Put the tensors of a checkpoint into ``rule``; where some are missing it starts afresh.

    Raises:
        UsageError: a tensor of another size.
    """
    with torch.no_grad():
        rule.restart()
        if isinstance(rule, ChocoRule):
            rule.expect(list(saved))
        for name, own in rule.tensors().items():
            if name in saved:
                if saved[name].shape != own.shape:
                    raise UsageError(f"{name} has {saved[name].numel()} elements, this model needs {own.numel()}")
                own.copy_(saved[name])
