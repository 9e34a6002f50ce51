"""How fast a topology mixes: the mixing matrix, its second eigenvalue, and the rounds until replicas agree.

Each round takes x to W x. What is left of the disagreement falls by the second largest modulus of an eigenvalue of W,
|lambda_2|, a round in the long run; the *gap* is 1 - |lambda_2|. For a sequence of rounds it is the modulus of their
product, to the power of 1 / rounds.

W is, for an edge i - j: the weights that come with the graph, where there are any; for undirected graphs those of
Metropolis and Hastings, 1 / (1 + max(d_i, d_j)), which on a regular graph are (A + I) / (d + 1); for directed graphs
1 / (1 + in-degree) for each sender and oneself, so that rows sum to one.

Source: Xiao and Boyd 2004 for the weights; Ying et al. 2021, arXiv 2110.13363, for sequences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dagrad_bus.topology.graph import Round, Topology

TARGET = 1e-3
"""Share of the first disagreement that :attr:`Spectrum.rounds` counts to."""
_EXACT = 1e-9
_STILL = 1e-12


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The speed of mixing."""

    second: float
    """|lambda_2| a round, 0 to 1."""
    rounds: int | None
    """Rounds until 1e-3 of the disagreement is left, as the eigenvalue predicts; None: never."""
    exact_after: int | None
    """Rounds after which all hold the exact mean; None: only in the limit."""
    keeps_mean: bool
    """Whether every round keeps the mean over the workers (columns sum to one too)."""

    @property
    def gap(self) -> float:
        """1 - |lambda_2|."""
        return 1 - self.second


def mixing(one: Round) -> NDArray[np.float64]:
    """Return W of one round, float64[size, size]; row i makes worker i's new value. Rows sum to one."""
    matrix = np.zeros((one.size, one.size))
    sender, receiver = one.edges.T
    if one.weights is not None:
        weights = one.weights
    elif one.directed:
        weights = 1 / (1 + np.bincount(receiver, minlength=one.size)[receiver])
    else:
        degrees = one.sends()
        weights = 1 / (1 + np.maximum(degrees[sender], degrees[receiver]))
    matrix[receiver, sender] = weights
    if not one.directed:
        matrix[sender, receiver] = weights
    np.fill_diagonal(matrix, 1 - matrix.sum(axis=1))
    return matrix


def spectrum(topology: Topology) -> Spectrum:
    """Compute the speed of mixing. O(rounds * size^3): about a second at 1000 workers, longer for sequences."""
    matrices = [mixing(one) for one in topology.rounds]
    keeps_mean = all(np.allclose(matrix.sum(axis=0), 1) for matrix in matrices)
    exact_after = _exact_after(matrices) if keeps_mean and topology.periodic else None
    second = 0.0 if exact_after is not None else _second(matrices)
    return Spectrum(second, exact_after or _rounds(second), exact_after, keeps_mean)


def _exact_after(matrices: Sequence[NDArray[np.float64]]) -> int | None:
    size = len(matrices[0])
    product = np.eye(size)
    for count, matrix in enumerate(matrices, 1):
        product = matrix @ product
        if np.abs(product - 1 / size).max() < _EXACT:
            return count
    return None


def _second(matrices: Sequence[NDArray[np.float64]]) -> float:
    size = len(matrices[0])
    if size == 1:
        return 0.0
    if len(matrices) == 1 and np.array_equal(matrices[0], matrices[0].T):
        moduli = np.abs(np.linalg.eigvalsh(matrices[0]))
    else:
        product = np.eye(size)
        for matrix in matrices:
            product = matrix @ product
        moduli = np.abs(np.linalg.eigvals(product)) ** (1 / len(matrices))
    return float(min(1.0, np.sort(moduli)[-2]))


def _rounds(second: float) -> int | None:
    if second > 1 - _STILL:
        return None
    return max(1, math.ceil(math.log(TARGET) / math.log(max(second, TARGET))))
