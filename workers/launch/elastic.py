"""What a host file that was read again asks for: which workers end, and which join the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from dagrad_bus.workers.launch.brief import Berth
from dagrad_bus.workers.launch.orders import WorkerOrder
from dagrad_bus.workers.launch.outcome import Worker


@dataclass(frozen=True, slots=True)
class Change:
    """The difference between a run and its host file."""

    gone: list[str]
    """Workers on slots that the file has no more."""
    joining: list[Berth]
    """Hosts with slots that have no worker yet, and only those slots."""

    @property
    def added(self) -> int:
        """How many workers join."""
        return sum(len(berth.workers) for berth in self.joining)


def compare(berths: Sequence[Berth], workers: Mapping[str, Worker], dropped: AbstractSet[str]) -> Change:
    """Return what has to change.

    Args:
        berths: that the file asks for now.
        workers: of the run, by name.
        dropped: those that had to end only because their slots were gone; they may come back. Others that are over,
            well or not, are not started again.
    """
    named = {order.name for berth in berths for order in berth.workers}
    joining: list[Berth] = []
    for berth in berths:
        orders = [order for order in berth.workers if _is_free(order.name, workers, dropped)]
        if orders:
            joining.append(replace(berth, workers=tuple(_joining(order, workers) for order in orders)))
    return Change([name for name, one in workers.items() if name not in named and not one.is_over], joining)


def _is_free(name: str, workers: Mapping[str, Worker], dropped: AbstractSet[str]) -> bool:
    return name not in workers or (name in dropped and workers[name].is_over)


def _joining(order: WorkerOrder, workers: Mapping[str, Worker]) -> WorkerOrder:
    """Return an order for a worker that the run did not begin with: it copies its neighbours' state."""
    before = workers[order.name].attempt if order.name in workers else 0
    return replace(order, attempt=max(order.attempt, before + 1))
