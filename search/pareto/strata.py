"""Strata of the range of costs: how evenly a search covers it, and where it should look next.

Costs are shares of the base model's: MACs, parameters or latency, whatever the search saves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


def even(low: float, high: float, count: int) -> NDArray[np.float64]:
    """Shares [count] from low to high, even in the square root: so are the networks' widths."""
    return np.linspace(np.sqrt(low), np.sqrt(high), count) ** 2


@dataclass(frozen=True)
class Strata:
    """`bins` intervals of the cost, even in its square root or log; shares of the base."""

    low: float
    high: float
    bins: int = 10
    log: bool = False

    @property
    def edges(self) -> NDArray[np.float64]:
        """Shares of the base [bins + 1]."""
        spaced = np.geomspace if self.log else even
        return spaced(self.low, self.high, self.bins + 1)

    def index(self, shares: ArrayLike) -> NDArray[np.int64]:
        """The bin of each share, int64 [N]; the nearest one for what lies outside."""
        inside = np.clip(np.asarray(shares, dtype=np.float64), self.low, self.high)
        return np.searchsorted(self.edges[1:-1], inside.ravel(), side="right")

    def counts(self, shares: ArrayLike) -> NDArray[np.int64]:
        """Trials per bin, int64 [bins]; what lies outside counts in the nearest bin."""
        return np.bincount(self.index(shares), minlength=self.bins)

    def hit(self, shares: ArrayLike) -> int:
        """Number of bins with at least one trial."""
        return int((self.counts(shares) > 0).sum())

    def sparse_share(self, shares: ArrayLike, rng: np.random.Generator) -> float:
        """A share from one of the bins with the fewest trials."""
        counts = self.counts(shares)
        chosen = int(rng.choice(np.flatnonzero(counts == counts.min())))
        low, high = np.sqrt(self.edges[chosen]), np.sqrt(self.edges[chosen + 1])
        return float(np.clip(rng.uniform(low, high) ** 2, self.low, self.high))


def alike(low: float, high: float) -> Strata:
    """Strata of networks that may be compared: within each, costs differ by a third at most."""
    return Strata(low, high, max(1, math.ceil(math.log(high / low) / math.log(4 / 3))), log=True)
