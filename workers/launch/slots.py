"""The slots of one host as its launcher knows them: what it was to start, what it has heard of, and what is over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from dagrad_bus.workers.launch.orders import CalledOff, Exited, Report, Started, WorkerOrder


class Slots:
    """Workers of one host.

    Args:
        label: of the host, which begins the name of each.
        workers: those it is to start at first.
    """

    def __init__(self, label: str, workers: Iterable[WorkerOrder]) -> None:
        self._label = label
        self._orders = {worker.name: worker for worker in workers}
        self._over: set[str] = set()
        self._attempts: dict[str, int] = {}
        """Of each worker that was started, its latest."""
        self._heard: set[str] = set()
        """Those of which there was a report since they were asked for."""
        self.unsent: set[str] = set()
        """Added while the agent could not be told."""
        self.told: set[str] = set()
        """Added over the connection that there is."""
        self.unwanted: dict[str, float] = {}
        """To end, though the run goes on, with their grace."""

    @property
    def names(self) -> list[str]:
        """Of all workers there ever were."""
        return list(self._orders)

    @property
    def unfinished(self) -> list[str]:
        """Names of those that are not over."""
        return [name for name in self._orders if name not in self._over]

    @property
    def swallowed(self) -> list[str]:
        """Names of those of which an agent with nothing left to do has never heard: a cut has swallowed the order."""
        return [name for name in self.unfinished if name not in self.told and name not in self._heard]

    def add(self, workers: Iterable[WorkerOrder], *, sent: bool) -> None:
        """Take note of workers that an order adds; ``sent``: whether the agent was told."""
        for worker in workers:
            self._orders[worker.name] = worker
            self._over.discard(worker.name)
            self._heard.discard(worker.name)
            self.unwanted.pop(worker.name, None)
            self.unsent.discard(worker.name)
            (self.told if sent else self.unsent).add(worker.name)

    def next_orders(self, names: Iterable[str]) -> list[WorkerOrder]:
        """Return the orders that start workers, or start them again."""
        orders = [self._orders[name] for name in names]
        return [
            order if (latest := self._attempts.get(order.name)) is None or latest < order.attempt
            else replace(order, attempt=latest + 1)
            for order in orders
        ]  # fmt: skip

    def end(self, names: Iterable[str]) -> None:
        """Take note that these are over."""
        self._over.update(names)

    def take(self, report: Report) -> bool:
        """Take note of a report; False: it is about a worker that cannot be of this host."""
        match report:
            case Started(name=name) | Exited(name=name) | CalledOff(name=name) if not self._is_ours(name):
                return False
            case Started(name=name, attempt=attempt):
                self._attempts[name] = attempt
                self._over.discard(name)
            case Exited(name=name, wait=None) | CalledOff(name=name):
                self._over.add(name)
            case _:
                return True
        self._heard.add(name)
        return True

    def _is_ours(self, name: str) -> bool:
        """Whether a worker is of this host; one that an earlier launcher has added is taken note of."""
        label, _, slot = name.rpartition(".")
        if name not in self._orders and label == self._label and slot.isascii() and slot.isdecimal():
            self._orders[name] = WorkerOrder(name=name, slot=int(slot))
        return name in self._orders
