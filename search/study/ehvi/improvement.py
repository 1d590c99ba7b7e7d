"""Expected hypervolume improvement where one of two objectives, the MACs, is known exactly.

With one objective certain, the expectation is a sum over the frontier's steps in closed form.
Emmerich, Giannakoglou, Naujoks, Single- and multi-objective evolutionary optimization assisted by
Gaussian random field metamodels (2006).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Steps:
    """A frontier as steps: `levels` [K], best scores at no more than `macs` [K], ascending.

    `members`: who is on it; `floor`: what a score must exceed below the fewest MACs.
    """

    macs: Array
    levels: Array
    members: NDArray[np.int64]
    floor: float

    @classmethod
    def around(cls, macs: Array, scores: Array) -> Steps:
        """The frontier of networks [N], MACs as shares of the base."""
        order = np.lexsort((-scores, macs))
        best = np.maximum.accumulate(scores[order])
        on = order[np.append(True, best[1:] > best[:-1])]
        return cls(macs[on], scores[on], on, float(scores.min()))

    def gain(self, macs: Array, mean: Array, std: Array) -> Array:
        """Expected area [N] that networks of scores N(mean, std²) add."""
        edges = np.concatenate([[0.0], self.macs, [max(1.0, self.macs[-1])]])
        levels = np.append(self.floor, self.levels)
        left = np.maximum(edges[None, :-1], macs[:, None])
        spans = np.maximum(edges[None, 1:] - left, 0.0)
        return (spans * _expected_lift(mean[:, None], std[:, None], levels[None, :])).sum(1)


def _expected_lift(mean: Array, std: Array, level: Array) -> Array:
    """E[max(0, s - level)] of s ~ N(mean, std²)."""
    z = (mean - level) / std
    return (mean - level) * ndtr(z) + std * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
