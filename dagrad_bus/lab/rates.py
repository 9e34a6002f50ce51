"""Which learning rate is best, where few validation samples give many equal accuracies."""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from statistics import fmean


def best_rates(tried: Mapping[float, float]) -> list[float]:
    """Return the rates by accuracy, the highest first; of equals the one nearest to the middle of the grid first.

    Of a plateau its middle is the safest: at its ends accuracy falls. Two that are equally near: the lower first.

    Args:
        tried: rate to accuracy; not empty.
    """
    middle = fmean(log(rate) for rate in tried)
    off = {rate: round(abs(log(rate) - middle), 9) for rate in tried}  # rounded: of 0.05 and 0.1 neither is nearer
    return sorted(tried, key=lambda rate: (-tried[rate], off[rate], rate))
