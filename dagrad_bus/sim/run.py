"""One simulated run: faults first, with safety checked after every event; then peace in a part of it, and liveness."""

from __future__ import annotations

from dataclasses import dataclass, field

from dagrad_bus.sim.cluster import Cluster
from dagrad_bus.sim.finale import Finale
from dagrad_bus.sim.invariants import Checker, Violation
from dagrad_bus.sim.nemesis import Nemesis, weather_of
from dagrad_bus.sim.network import Network
from dagrad_bus.sim.options import Options
from dagrad_bus.sim.world import World

SKEW = 2.0
"""Seconds within which the workers start."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one run."""

    options: Options
    violation: str = ""
    """First check that failed; empty: none."""
    text: str = ""
    at: float = 0.0
    """Virtual seconds at the end, or at the violation."""
    events: int = 0
    trace: int = 0
    accepted: int = 0
    """Frames accepted by all workers."""
    lost: int = 0
    """Messages that connections lost when they broke."""
    felt: dict[str, int] = field(default_factory=dict[str, int])
    """How often each fault happened."""
    recent: tuple[str, ...] = ()
    """The last events before a violation."""

    @property
    def ok(self) -> bool:
        """Whether every check held."""
        return not self.violation

    def told(self) -> str:
        """Return what to print of it."""
        lines = [
            f"seed {self.options.seed}: {'ok' if self.ok else self.violation} at {self.at:.3f} s",
            self.options.told(),
        ]
        if not self.ok:
            lines += [self.text, *self.recent]
        return "\n".join(lines)


class Run:
    """The parts of one run, put together; :meth:`play` plays it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.world = World(options.seed)
        self.network = Network(self.world, weather_of(options))
        self.checker = Checker()
        self.cluster = Cluster(self.world, self.network, options, self.checker)
        self.nemesis = Nemesis(self.cluster)

    def play(self) -> Result:
        """Play both phases."""
        violation = text = ""
        recent: tuple[str, ...] = ()
        try:
            self.cluster.start_all(SKEW)
            self.world.run(self.options.horizon)
            Finale(self.cluster, self.nemesis).play()
        except Violation as found:
            violation, text = found.check, found.text
            recent = tuple(self.world.told())
        except Exception as error:  # noqa: BLE001  # a core that raises is what is looked for
            violation, text = "crash", _where(error)
            recent = tuple(self.world.told())
        world = self.world
        return Result(
            self.options, violation, text, world.now, world.events, world.trace & (1 << 64) - 1,
            self.checker.accepted_frames, self.network.counts.lost, dict(self.nemesis.felt),
            recent,
        )  # fmt: skip


def run(options: Options) -> Result:
    """Play one run."""
    return Run(options).play()


def _where(error: Exception) -> str:
    """Return an exception with the lines it came through."""
    places: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_qualname if hasattr(code, 'co_qualname') else code.co_name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__}: {error} ({' > '.join(places[-8:])})"
