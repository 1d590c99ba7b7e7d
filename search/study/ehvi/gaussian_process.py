"""Gaussian process regression in numpy: Matérn-5/2 over scaled inputs, fitted by MAP.

Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), algorithm 2.1 and eq. 5.9.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

Array = NDArray[np.float64]

TREND = 10.0  # prior variance of the trend in the first input, targets having variance 1
SLOPE = 0.1  # prior variance of the slopes in the others
JITTER = 1e-6
ITERATIONS = 30
LENGTH = (1.5, 0.5)  # prior of log length scales, inputs having variance 1: mean, std
SIGNAL = (-2.0, 1.0)  # of the log variance of what the trend leaves
NOISE = (-4.0, 1.5)  # of the log variance of the noise, before it is scaled by point


@dataclass(frozen=True)
class Hyperparameters:
    """Length scales [d], variance of the signal, variance of the noise."""

    lengths: Array
    signal: float
    noise: float


class GaussianProcess:
    """Posterior of a smooth function. X: [N, d] scaled to unit variance, y: [N] standardised.

    It varies around a trend, quadratic in the first input and linear in the others. `scale` [N]:
    noise variances, each as a multiple of the fitted one.
    """

    def __init__(self, X: Array, y: Array, scale: Array, hyper: Hyperparameters) -> None:
        self.X, self.hyper = X, hyper
        K = _matern(_scaled(X, X, hyper.lengths)) * hyper.signal + _trend(X, X)
        K[np.diag_indices_from(K)] += hyper.noise * scale + JITTER
        self._factor = cho_factor(K, lower=True)
        self._alpha = cho_solve(self._factor, y)

    def predict(self, X: Array) -> tuple[Array, Array]:
        """Mean [N] and standard deviation [N] of the function, noise left out."""
        hyper = self.hyper
        K = _matern(_scaled(X, self.X, hyper.lengths)) * hyper.signal + _trend(X, self.X)
        root = solve_triangular(self._factor[0], K.T, lower=True, check_finite=False)
        prior = hyper.signal + (_basis(X) ** 2).sum(1)
        return K @ self._alpha, np.sqrt(np.maximum(prior - (root**2).sum(0), 1e-12))


def fit(X: Array, y: Array, scale: Array) -> Hyperparameters:
    """The hyperparameters of highest posterior density; arguments as of GaussianProcess."""
    start = _prior(X.shape[1])[0]
    options = {"maxiter": ITERATIONS}
    found = minimize(density(X, y, scale), start, jac=True, method="L-BFGS-B", options=options)
    *lengths, signal, noise = np.exp(found.x)
    return Hyperparameters(np.array(lengths), float(signal), float(noise))


def density(X: Array, y: Array, scale: Array) -> Callable[[Array], tuple[float, Array]]:
    """Negative log density of log hyperparameters [d + 2], but for a constant, and its gradient."""
    count, dims = X.shape
    squares = (X[:, None, :] - X[None, :, :]) ** 2
    trend = _trend(X, X)
    means, stds = _prior(dims)
    eye = np.eye(count)

    def loss(theta: Array) -> tuple[float, Array]:
        inverse = np.exp(-2 * theta[:dims])
        signal, noise = np.exp(theta[dims]), np.exp(theta[dims + 1])
        r = np.sqrt(5 * (squares @ inverse))
        decay = np.exp(-r)
        core = signal * (1 + r + r * r / 3) * decay
        K = core + trend
        K[np.diag_indices(count)] += noise * scale + JITTER
        try:
            factor = cho_factor(K, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            return 1e10, np.zeros_like(theta)
        alpha = cho_solve(factor, y, check_finite=False)
        weight = cho_solve(factor, eye, check_finite=False) - np.outer(alpha, alpha)
        slope = signal * (5 / 3) * (1 + r) * decay * weight
        gradient = np.empty_like(theta)
        gradient[:dims] = 0.5 * np.tensordot(slope, squares, 2) * inverse
        gradient[dims] = 0.5 * (weight * core).sum()
        gradient[dims + 1] = 0.5 * noise * (weight.diagonal() * scale).sum()
        away = (theta - means) / stds
        value = 0.5 * y @ alpha + np.log(factor[0].diagonal()).sum() + 0.5 * away @ away
        return float(value), gradient + away / stds

    return loss


def _prior(dims: int) -> tuple[Array, Array]:
    """Means and standard deviations [dims + 2] of the log hyperparameters."""
    mean, std = zip(*[LENGTH] * dims, SIGNAL, NOISE, strict=True)
    return np.array(mean), np.array(std)


def _scaled(A: Array, B: Array, lengths: Array) -> Array:
    """√5 times the scaled distances [N, M]."""
    a, b = A / lengths, B / lengths
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
    return np.sqrt(5 * np.maximum(squares, 0.0))


def _matern(r: Array) -> Array:
    return (1 + r + r * r / 3) * np.exp(-r)


def _basis(X: Array) -> Array:
    """What the trend is made of, each scaled by its coefficient's prior deviation: [N, d + 2]."""
    first = X[:, :1]
    curve = np.hstack([np.ones_like(first), first, first**2])
    return np.hstack([TREND**0.5 * curve, SLOPE**0.5 * X[:, 1:]])


def _trend(A: Array, B: Array) -> Array:
    return _basis(A) @ _basis(B).T
