"""Which learning rate is best and which to try next, where few validation samples give many equal accuracies."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, isnan, log
from statistics import fmean


def best_rates(tried: Mapping[float, float | None]) -> list[float]:
    """Return the rates by accuracy, the highest first; of equals the one nearest to the middle of the grid first.

    Of a plateau its middle is the safest: at its ends accuracy falls. Two that are equally near: the lower first.

    Args:
        tried: rate to accuracy; None or NaN, of a run that failed or diverged, is the worst. Not empty.
    """
    middle = fmean(log(rate) for rate in tried)
    off = {rate: round(abs(log(rate) - middle), 9) for rate in tried}  # rounded: of 0.05 and 0.1 neither is nearer
    return sorted(tried, key=lambda rate: (-_worth(tried[rate]), off[rate], rate))


def beyond(tried: Mapping[float, float | None]) -> list[float]:
    """Return the rates to try next: one step of the grid beyond each edge that no other rate beats.

    Args:
        tried: rate to accuracy, as for :func:`best_rates`; a step is the ratio of the two rates at that edge.
    """
    rates, best = sorted(tried), max(_worth(accuracy) for accuracy in tried.values())
    if len(rates) < 2 or best == -inf:
        return []
    ends = ((rates[0], rates[1]), (rates[-1], rates[-2]))
    return [float(f"{edge * edge / near:.3g}") for edge, near in ends if _worth(tried[edge]) == best]


def _worth(accuracy: float | None) -> float:
    return -inf if accuracy is None or isnan(accuracy) else accuracy
