"""Expected hypervolume improvement where one of two objectives, the cost, is known exactly.

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
    """A frontier as steps: `levels` [K], best scores at no more than `costs` [K], ascending.

    `members`: who is on it; `floor`: what a score must exceed below the least cost.
    """

    costs: Array
    levels: Array
    members: NDArray[np.int64]
    floor: float

    @classmethod
    def around(cls, costs: Array, scores: Array) -> Steps:
        """The frontier of networks [N], costs as shares of the base's."""
        order = np.lexsort((-scores, costs))
        best = np.maximum.accumulate(scores[order])
        on = order[np.append(True, best[1:] > best[:-1])]
        return cls(costs[on], scores[on], on, float(scores.min()))

    def gain(self, costs: Array, mean: Array, std: Array) -> Array:
        """Expected area [N] that networks of scores N(mean, std²) add."""
        edges = np.concatenate([[0.0], self.costs, [max(1.0, self.costs[-1])]])
        levels = np.append(self.floor, self.levels)
        left = np.maximum(edges[None, :-1], costs[:, None])
        spans = np.maximum(edges[None, 1:] - left, 0.0)
        return (spans * _expected_lift(mean[:, None], std[:, None], levels[None, :])).sum(1)


def _expected_lift(mean: Array, std: Array, level: Array) -> Array:
    """E[max(0, s - level)] of s ~ N(mean, std²)."""
    z = (mean - level) / std
    return (mean - level) * ndtr(z) + std * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
