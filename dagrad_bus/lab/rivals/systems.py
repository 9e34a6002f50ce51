"""What is compared, with pinned versions and the options that each is run with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dagrad_bus.errors import UsageError

REFERENCE = "local"
"""The system that exchanges nothing: step times and drift are compared with it."""
OWN = "dagrad"
RATES = (0.05, 0.1, 0.2)
"""Learning rates that are tried for every system; while none beats an edge, up to ``EXTENSIONS`` more beyond it."""
EXTENSIONS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One row of the scoreboard."""

    name: str
    title: str
    driver: str
    """Module of this package that each worker runs."""
    environment: str = ""
    """Name of its environment; empty: this Python."""
    requirements: Sequence[str] = ()
    """What is installed there beside torch."""
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    """What its driver is told."""
    says: str
    """The configuration, in a few words for the page."""


_ALL = (
    System(name=REFERENCE, title="no exchange", driver="local", says="each worker alone: the reference"),
    System(
        name=OWN,
        title="dagrad-bus",
        driver="own",
        options={"linger": 5.0},
        says="rule state, all settings as they come, started by `dagrad run`",
    ),
    System(name="ddp", title="DDP, gloo", driver="ddp", says="torch's DistributedDataParallel, float32 gradients"),
    System(
        name="decent-ring",
        title="Decent-DP, ring",
        driver="decent",
        environment="decent-dp",
        requirements=("decent-dp==0.2.3",),
        options={"topology": "ring"},
        says="whole models in float32, left and right neighbour in turn",
    ),
    System(
        name="decent-exp",
        title="Decent-DP, one-peer-exp",
        driver="decent",
        environment="decent-dp",
        requirements=("decent-dp==0.2.3",),
        options={"topology": "one-peer-exp"},
        says="whole models in float32, one neighbour of an exponential graph at a time",
    ),
    System(
        name="diloco",
        title="torchft DiLoCo",
        driver="diloco",
        environment="torchft",
        requirements=("torchft==0.2.0",),
        options={"sync_every": 10, "outer_lr": 0.7, "outer_momentum": 0.9, "min_replicas": 2},
        says="an outer Nesterov step of 0.7, momentum 0.9, every 10 steps, float32",
    ),
    System(
        name="hivemind",
        title="hivemind",
        driver="hive",
        environment="hivemind",
        requirements=("hivemind==1.1.12", "numpy<2.4"),
        options={"local_updates": True, "epoch_steps": 20, "matchmaking": 1.0, "delay": False},
        says="hivemind.Optimizer with local updates, parameters averaged in float16 after 20 steps of all, 1 s to match",
    ),
)
SYSTEMS: Mapping[str, System] = {system.name: system for system in _ALL}


def find_systems(names: Sequence[str]) -> list[System]:
    """Return the systems of these names, the reference first: it is always run.

    Raises:
        UsageError: a name that is none.
    """
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown:
        raise UsageError(f"no system {', '.join(unknown)}: there are {', '.join(SYSTEMS)}")
    wanted = {REFERENCE, *(names or SYSTEMS)}
    return [system for system in _ALL if system.name in wanted]
