"""The promises BV, ONE and RC, held against what the workers of a herd report."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.faults.herd import Herd
from dagrad_bus.faults.lines import Answer


def broken_links(herd: Herd, names: Iterable[str] | None = None) -> dict[str, int]:
    """Return for each live link how many blocks its receiver lacks in the version last addressed; empty: BV holds.

    Call it once the workers are quiet and owe nothing.
    """
    chosen = tuple(names if names is not None else herd.running)
    by_node = {herd[name].node.hex(): name for name in chosen}
    ledgers = herd.ask_all("ledger", chosen)
    broken: dict[str, int] = {}
    for sender, ledger in ledgers.items():
        for peer, text in ledger["addressed"].items():
            receiver = by_node.get(peer)
            if receiver is None:
                continue
            missing = _missing(_numbers(text), ledgers[receiver]["seen"].get(herd[sender].node.hex()), ledger["tag"])
            if missing:
                broken[f"{sender} -> {receiver}"] = missing
    return broken


def _numbers(text: str) -> NDArray[np.int64]:
    return np.frombuffer(base64.b64decode(text), np.int64)


def _missing(addressed: NDArray[np.int64], seen: list[object] | None, tag: int) -> int:
    due = addressed > 0
    if seen is None or seen[0] != tag:
        return int(np.count_nonzero(due))
    return int(np.count_nonzero(due & (_numbers(str(seen[1])) != addressed)))


def settle(herd: Herd, seconds: float, names: Iterable[str] | None = None) -> dict[str, Answer]:
    """Have workers address nothing new, wait until they owe one another nothing, return their states.

    ``quiet_exchanges`` in a state is how many frames that took. Undone by ``set`` with ``quiet=False``.
    """
    chosen = tuple(names if names is not None else herd.running)
    herd.ask_all("set", chosen, quiet=True)
    latest: dict[str, Answer] = {}

    def clean() -> bool:
        latest.update(herd.states(chosen))
        return not debtors(latest, chosen)

    try:
        herd.until("nothing owed", clean, seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}: {debtors(latest, chosen)}") from None
    herd.until("nothing on its way", lambda: not broken_links(herd, chosen), 3)
    return latest


def debtors(states: dict[str, Answer], among: Iterable[str]) -> dict[str, list[str]]:
    """Return who owes blocks, or has frames in flight, to whom of ``among``, with the state of those links."""
    chosen = tuple(among)
    found = {
        name: [
            f"{peer} ({state['out'].get(peer)})"
            for peer in chosen
            if state["debts"].get(peer) or state["in_flight"].get(peer)
        ]
        for name, state in states.items()
    }
    return {name: peers for name, peers in found.items() if peers}


def wrong_frames(states: dict[str, Answer]) -> dict[str, int]:
    """Return how many frames or rows broke ONE: ``corrupt``, ``foreign``, ``twice``."""
    kinds = ("corrupt", "foreign", "twice")
    return {kind: sum(int(state["counts"].get(kind, 0)) for state in states.values()) for kind in kinds}


def spread(herd: Herd, names: Iterable[str] | None = None) -> float:
    """Return the standard deviation over workers, averaged over all elements of the replica."""
    answers = herd.ask_all("values", names)
    values = [np.frombuffer(base64.b64decode(answer["values"]), np.float32) for answer in answers.values()]
    return float(np.stack(values).std(axis=0, dtype=np.float64).mean())


def await_agreement(
    herd: Herd, factor: float, seconds: float, names: Iterable[str] | None = None
) -> tuple[float, float]:
    """Stop local updates and wait until the spread has fallen to ``factor`` of its value; return seconds and share."""
    chosen = tuple(names if names is not None else herd.running)
    herd.ask_all("set", chosen, frozen=True)
    start, first = time.monotonic(), spread(herd, chosen)
    share = 1.0
    while share > factor and time.monotonic() - start < seconds:
        time.sleep(0.2)
        share = spread(herd, chosen) / first
    return time.monotonic() - start, share
