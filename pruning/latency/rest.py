"""What a network takes besides its layers alone, fitted to whole networks that were timed.

Timed alone, a layer finds its weights in the caches; in a network that is larger than these it does
not. Batch norms, sums and activations cost by the values that pass, and a call costs something.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import lsq_linear

SHARES = (0.02, 0.05, 0.1, 0.2, 0.4)  # of the whole network's weights: what the caches may hold
BETTER = 0.97  # a cache is believed in if it leaves so much of the error, or less
SLACK = 1e-9


@dataclass(frozen=True)
class Rest:
    """ms = scale · layers + per_value · values + per_weight · weights + per_spilled · spilled
    + constant, where spilled are the weights beyond `held`.
    """

    scale: float
    per_value: float
    per_weight: float
    per_spilled: float
    constant: float
    held: float = math.inf

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Features: float64 [N, 3] of layers' ms, values written, weights read; ms float64 [N]."""
        numbers = (self.scale, self.per_value, self.per_weight, self.per_spilled, self.constant)
        return _columns(features, self.held) @ np.array(numbers)


def fit(features: np.ndarray, ms: np.ndarray) -> Rest:
    """The Rest of least relative squared error; `held` by leaving each network out once."""
    most = features[:, 2].max(initial=1.0)
    errors = {held: _left_out(features, ms, held) for held in (share * most for share in SHARES)}
    best = min(errors, key=errors.__getitem__)
    if not errors[best] < BETTER * _left_out(features, ms, math.inf) - SLACK:
        best = math.inf
    scale, value, weight, spilled, constant = _solved(features, ms, best).tolist()
    spilled = 0.0 if math.isinf(best) else spilled
    return Rest(scale, value, weight, spilled, constant, best)


def _columns(features: np.ndarray, held: float) -> np.ndarray:
    weights = features[:, 2:3]
    return np.hstack([features, np.maximum(weights - held, 0.0), np.ones_like(weights)])


def _solved(features: np.ndarray, ms: np.ndarray, held: float) -> np.ndarray:
    columns = _columns(features, held)
    sizes = 1 / np.maximum(columns.max(axis=0), SLACK)
    sizes[0] = 1.0
    # layers are slower or faster together, by what they pass on in the caches
    low, high = [0.2, -np.inf, 0.0, 0.0, 0.0], [5.0, *[np.inf] * 4]
    found = lsq_linear(columns * sizes / ms[:, None], np.ones(len(ms)), (low, high), tol=1e-12)
    return np.asarray(found.x * sizes)


def _left_out(features: np.ndarray, ms: np.ndarray, held: float) -> float:
    """Mean relative error of each network, foretold from the others."""
    errors = []
    for i in range(len(ms)):
        others = np.arange(len(ms)) != i
        found = _columns(features[i : i + 1], held) @ _solved(features[others], ms[others], held)
        errors.append(abs(float(found[0]) / ms[i] - 1))
    return float(np.mean(errors))
