"""How the hypervolume grows with the trials: is it worth going on, and what would more bring?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.pareto import front
from search.pareto.front import Reference

FEWEST = 12  # complete trials, before anything is foretold
POWERS = np.linspace(0.2, 2.0, 19)  # of the laws that are tried
Array = NDArray[np.float64]


def volumes(rows: Iterable[Any], reference: Reference) -> Array:
    """Hypervolume [N] after each complete trial, by trial number."""
    points = _in_order(rows, reference)
    return np.array([front.hypervolume(points[: n + 1], reference) for n in range(len(points))])


def _in_order(rows: Iterable[Any], reference: Reference) -> Array:
    """Points [N, 2] of the complete trials, by trial number."""
    done = [row for row in rows if row.status == "complete"]
    return reference.points(sorted(done, key=lambda row: row.number))


@dataclass(frozen=True)
class Patience:
    """A search is over that in `trials` complete trials grew by less than `share` of its volume."""

    trials: int
    share: float
    reference: Reference

    def over(self, rows: Iterable[Any]) -> bool:
        """Whether it is; rows in any order, so that a rebuilt study says the same."""
        points = _in_order(rows, self.reference)
        if len(points) <= self.trials:
            return False
        before = front.hypervolume(points[: -self.trials], self.reference)
        now = front.hypervolume(points, self.reference)
        return now - before < self.share * max(now, 1e-12)


def foretold(grown: Array, more: int) -> float | None:
    """What `more` trials would probably add to the hypervolume; None where that is not to be told.

    The law V(n) = V∞ - a n^-b, fitted to the later three quarters of the curve; b from a grid, V∞
    and a by least squares.
    """
    if len(grown) < FEWEST:
        return None
    n = np.arange(1, len(grown) + 1, dtype=np.float64)
    late = n >= len(grown) / 4
    best: tuple[float, float] | None = None
    for power in POWERS:
        X = np.column_stack([np.ones(late.sum()), -(n[late] ** -power)])
        weights = np.linalg.lstsq(X, grown[late], rcond=None)[0]
        error, size = float(((X @ weights - grown[late]) ** 2).sum()), float(weights[1])
        gain = size * (len(grown) ** -power - (len(grown) + more) ** -power)
        if size >= 0 and (best is None or error < best[0]):
            best = error, float(gain)
    return None if best is None else best[1]


def outlook(rows: Iterable[Any], reference: Reference) -> str | None:
    """A sentence on what as many trials again would bring; None where that is not to be told."""
    grown = volumes(rows, reference)
    gain = foretold(grown, len(grown))
    if gain is None:
        return None
    return (
        f"{len(grown)} more trials would probably add {gain:.4f} to the hypervolume of "
        f"{grown[-1]:.4f} ({gain / max(grown[-1], 1e-12):.2%} of it)"
    )
