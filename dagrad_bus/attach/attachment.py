"""``attach(model, optimizer)``: one line in a training loop.

The optimizer's post-hook is one step boundary: mix what arrived, publish what changed, return. Nothing here waits for
the network and no network trouble raises; only programmer errors do, and a peer group that trains another model. Two
exceptions: a worker far behind its neighbours waits while it copies their state, and the rule ``sync-ps`` is a barrier.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self, TypedDict

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dagrad_bus.attach.exchange import Exchange, ExchangeState
from dagrad_bus.attach.hooks import StepHooks, bare_optimizers
from dagrad_bus.attach.port import Port, Silent
from dagrad_bus.attach.replica import Replica
from dagrad_bus.attach.role import role_of
from dagrad_bus.attach.rules import KINDS, LOCKSTEP, ON_GRADIENTS, SUMMED, Rule, block_of, make_rule, restore
from dagrad_bus.attach.sampling import Sampler
from dagrad_bus.attach.store import open_rendezvous
from dagrad_bus.attach.transfer import Transfer
from dagrad_bus.blocks import Layout
from dagrad_bus.checksum import crc32c
from dagrad_bus.errors import BusClosed, BusError, UsageError
from dagrad_bus.events import MemberEvent
from dagrad_bus.settings import SERVED, Settings, from_environment
from dagrad_bus.topology.live import TopologySpec

_log = logging.getLogger("dagrad_bus")
STATE_VERSION = 1


class AttachmentState(TypedDict, total=False):
    """A checkpoint of the exchange: tensors, numbers and text only (loads with ``weights_only=True``)."""

    version: int
    step: int
    rule: str
    layout: str
    tensors: dict[str, Tensor]
    exchange: ExchangeState
    rounding: Tensor


class _Parts:
    """What an attachment with peers consists of."""

    def __init__(self, replica: Replica, settings: Settings, port: Port, clock: Callable[[], float]) -> None:
        chosen = settings.exchange
        self.replica = replica
        rule, kinds, largest = chosen.rule, KINDS[chosen.rule], settings.link.max_frame
        self.exchange = Exchange(replica.layout, chosen, port, kinds, clock, largest, settings.name)
        role = role_of(settings) if rule in SERVED else None
        self.rule: Rule = make_rule(rule, replica, self.exchange, role, settings.name)
        self.transfer: Transfer | None = None
        if kinds and rule not in LOCKSTEP:
            mixes = rule not in SUMMED
            self.transfer = Transfer(replica, self.rule, self.exchange, port, clock, largest, mixes=mixes)
        self.sampler = Sampler(replica.layout)


class Attachment:
    """A model attached to its peers; made by :func:`attach`."""

    def __init__(self, settings: Settings, port: Port, parts: _Parts | None, optimizers: Sequence[Optimizer]) -> None:
        self._settings = settings
        self._port = port
        self._parts = parts
        self._pid = os.getpid()
        self._closed = False
        self._callbacks: list[Callable[[MemberEvent], None]] = []
        self._step = 0
        before = parts.rule.before_step if parts is not None and parts.rule.needs_gradient else None
        if before is not None and not optimizers:
            raise UsageError(f"rule {settings.exchange.rule} works inside optimizer.step(): pass the optimizer")
        if parts is not None:
            parts.exchange.pauses.check = self._check
        self._hooks = StepHooks(optimizers, self._merge if before else None, self.exchange) if optimizers else None

    @property
    def name(self) -> str:
        """This worker's name in the run."""
        return self._settings.name

    @property
    def index(self) -> int:
        """Position of this worker in the launched list; 0 when alone. One that joined later has one by its name."""
        members = self._settings.members
        return members.index(self.name) if self.name in members else crc32c(self.name.encode()) % self.count

    @property
    def count(self) -> int:
        """How many workers were launched; 1 when alone."""
        return max(1, len(self._settings.members))

    @property
    def step_count(self) -> int:
        """Local steps so far, those before a restored checkpoint included; after copying peers' state, theirs."""
        return self._step

    @property
    def is_alone(self) -> bool:
        """Whether there is nobody to exchange with."""
        return self._parts is None

    @property
    def layout(self) -> Layout | None:
        """How the model is cut into blocks; None when alone."""
        return self._parts.replica.layout if self._parts is not None else None

    @property
    def members(self) -> Mapping[str, str]:
        """What is believed of each member, by name: alive, suspect, dead or left."""
        return self._port.members()

    def on_member(self, callback: Callable[[MemberEvent], None]) -> None:
        """Have ``callback`` told what happens to members, at the step boundary that follows, in the training thread.

        What it raises comes out of the step.
        """
        self._callbacks.append(callback)

    def rewire(self, spec: TopologySpec) -> bool:
        """Publish a graph: all workers adopt it without losing a step. False: the bus had no room for the order.

        Args:
            spec: must have a higher version than the one in force.
        """
        self._check()
        return self._port.rewire(spec)

    def set_density(self, density: float) -> None:
        """Let frames hold another share of the model from now on, in (0, 1]; it is no part of a checkpoint.

        Bytes may so follow a schedule, as rates do: a run whose rate has fallen to 0 only mixes, and agrees sooner.

        Raises:
            UsageError: out of range.
        """
        if not 0 < density <= 1:
            raise UsageError(f"density is {density}: needs a share in (0, 1]")
        if self._parts is not None:
            self._parts.exchange.set_density(density)

    def exchange(self) -> None:
        """Do one step boundary. The hooks call it; call it yourself only after ``attach(model, None)``.

        Raises:
            UsageError: the model was moved or replaced, or this is a forked child.
            LayoutMismatch: the peers train another model.
            BusClosed: the attachment was closed.
            BarrierBroken: under the rule ``sync-ps``, inside the optimizer's step: a round cannot be completed.
        """
        self._check()
        self._step += 1
        if self._parts is None:
            return
        with torch.no_grad():
            self._parts.replica.check()
            self._parts.exchange.tick()
            self._parts.rule.after_step(self._step)
            if self._parts.transfer is not None:
                self._step = self._parts.transfer.boundary(self._step, self._check)
            else:
                self._parts.exchange.take_sweeps()  # nobody was asked for any
            values = self._parts.sampler.at(self._step, self._parts.replica)
        if values is not None:
            self._port.sample(self._step, values)
        self._parts.exchange.metrics.gauge("step", self._step)
        self._port.note_step(self._step, self._parts.exchange.rate)
        events = self._parts.exchange.events
        while events:
            event = events.popleft()
            for callback in self._callbacks:
                callback(event)

    @property
    def is_syncing(self) -> bool:
        """Whether the replica is being copied from peers right now; another thread may look."""
        transfer = self._parts.transfer if self._parts is not None else None
        return transfer is not None and transfer.is_copying

    def sync(self, timeout: float = 60.0) -> bool:
        """Replace the replica by the neighbours' state, and the step count by theirs. Waits.

        A worker that starts or comes back far behind does this by itself at a step boundary.

        Args:
            timeout: seconds at most; it also ends where no neighbour answers.

        Returns:
            Whether the whole state was copied; else the own one stands, with what came in time.

        Raises:
            UsageError: the model was moved or replaced, or this is a forked child.
            BusClosed: the attachment was closed.
        """
        self._check()
        if self._parts is None or self._parts.transfer is None:
            return False
        with torch.no_grad():
            self._parts.replica.check()
            done = self._parts.transfer.copy(self._step, self._check, timeout=timeout)
        self._step = max(self._step, self._parts.transfer.caught_up)
        return done

    def _merge(self, scale: float) -> None:
        self._check()
        if self._parts is not None:
            self._parts.replica.check()
            self._parts.rule.before_step(scale)

    def _check(self) -> None:
        if self._closed:
            raise BusClosed("this attachment was closed: attach again to go on exchanging")
        if os.getpid() != self._pid:
            raise UsageError("the bus does not survive a fork: attach in the child, or start it by 'spawn'")
        failure = self._port.failure()
        if failure is not None:
            raise failure

    def log(self, **numbers: float | Tensor) -> None:
        """Record numbers beside the run's own: loss, accuracy, ... Scalar tensors are read (and waited for)."""
        self._check()
        plain = {name: n.detach() if isinstance(n, Tensor) else n for name, n in numbers.items()}
        self._port.log(**{name: float(number) for name, number in plain.items()})

    def metrics(self) -> Mapping[str, Mapping[str, object]]:
        """Return a copy of all counters, gauges and histograms of this worker, the bus thread's included."""
        return self._port.snapshot()

    def state_dict(self) -> AttachmentState:
        """Return what a checkpoint needs beside the model's and the optimizer's own state.

        Save it together with them: the anchor belongs to the parameters of the same moment.
        """
        state: AttachmentState = {"version": STATE_VERSION, "step": self._step}
        if self._parts is not None:
            state["rule"] = self._settings.exchange.rule
            state["layout"] = self._parts.replica.layout.digest.hex()
            state["tensors"] = {name: tensor.clone() for name, tensor in self._parts.rule.tensors().items()}
            state["exchange"] = self._parts.exchange.state_dict()
            state["rounding"] = self._parts.replica.rounding_state()
        return state

    def load_state_dict(self, state: AttachmentState) -> None:
        """Restore a checkpoint, after the model's own. One written alone restores the step count only.

        Raises:
            UsageError: it was written by another version, or for another model.
        """
        self._check()
        if state.get("version") != STATE_VERSION:
            raise UsageError(f"checkpoint version {state.get('version')}: this release reads {STATE_VERSION}")
        if self._parts is not None:
            layout = self._parts.replica.layout
            if state.get("layout", layout.digest.hex()) != layout.digest.hex():
                raise UsageError(f"the checkpoint has layout {state.get('layout')}, this model: {layout.describe()}")
            same = state.get("rule") == self._settings.exchange.rule
            restore(self._parts.rule, state.get("tensors", {}) if same else {})
            if "exchange" in state:
                self._parts.exchange.load_state_dict(state["exchange"])
            if "rounding" in state:
                self._parts.replica.set_rounding_state(state["rounding"])
        self._step = state.get("step", 0)
        if self._parts is not None and self._parts.transfer is not None:
            self._parts.transfer.restart(self._step)

    def close(self) -> None:
        """Remove the hooks and leave the bus; the model stays as it is. Twice is harmless."""
        if not self._closed and self._parts is not None and os.getpid() == self._pid:
            with suppress(BusError):  # what the bus thread died of is raised below
                self._parts.exchange.pauses.finish()
        self._leave()

    def _leave(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._hooks is not None:
            self._hooks.close()
        if os.getpid() == self._pid:  # a forked child does not own the parent's sockets
            self._port.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; after an error without waiting for anybody."""
        if kind is None:
            self.close()
        else:
            self._leave()


def attach(
    model: nn.Module,
    optimizer: object,
    bus: Port | None = None,
    *,
    settings: Settings | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Attachment:
    """Attach a model to its peers: from now on every ``optimizer.step()`` ends with an exchange.

    The loop, the scheduler, the scaler, clipping, accumulation and ``torch.compile`` stay the user's. Call it after
    the model is on its device; a model moved later must be attached again.

    Args:
        model: trainable parameters and persistent floating buffers are exchanged, frozen parameters are not.
        optimizer: a torch optimizer, a wrapper around one, several (the exchange follows the last one's step), or
            None, in which case the caller calls :meth:`Attachment.exchange` after each step.
        bus: a running bus; None starts one from the settings, or none at all where there are no peers.
        settings: None reads ``DAGRAD_*`` from the environment.
        clock: monotonic seconds.

    Raises:
        UsageError: a model or optimizer that cannot be attached; the message says what to do.
        SettingsError: settings out of range.
        StartError: the bus could not start.
    """
    optimizers = [] if optimizer is None else bare_optimizers(optimizer)
    chosen = settings if settings is not None else from_environment(os.environ)
    if bus is None and chosen.is_alone:
        _log.info("dagrad-bus: no peers configured, %s trains alone", chosen.name)
        return Attachment(chosen, Silent(), None, optimizers)
    _warn_about_world(os.environ)
    rule = chosen.exchange.rule
    if rule in ON_GRADIENTS and len(optimizers) != 1:
        raise UsageError(f"rule {rule} needs exactly one optimizer, not {len(optimizers)}: use the state rule")
    if rule in SERVED:
        role_of(chosen)  # before anything starts
    replica = Replica(model, optimizers, block_of(chosen.exchange), chosen.exchange.seed)
    port = bus if bus is not None else _start(chosen, replica)
    _log.info("dagrad-bus: %s attached, %s", chosen.name, replica.describe())
    return Attachment(chosen, port, _Parts(replica, chosen, port, clock), optimizers)


def _start(settings: Settings, replica: Replica) -> Port:
    from dagrad_bus.handoff import BusThread  # starts sockets and a thread: only where there are peers

    settings, place = open_rendezvous(settings)
    return BusThread(settings, replica.layout, place)


def _warn_about_world(environ: Mapping[str, str]) -> None:
    world = environ.get("WORLD_SIZE", "1")
    if world.isdigit() and int(world) > 1:
        warnings.warn(
            f"WORLD_SIZE is {world}: dagrad-bus replaces DistributedDataParallel; attach plain replicas, "
            "each of which holds the whole model",
            stacklevel=3,
        )
