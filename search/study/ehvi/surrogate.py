"""What a slim network will score, learnt from those that were trained; its cost needs no learning.

A Gaussian process of the log odds of the score over the log cost and the mean log share of channels
of each stage. Scores outside 0 to 1 (PSNR, say) are modelled as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pruning.graph import Cost
from search.study.ehvi.gaussian_process import GaussianProcess, Hyperparameters, fit

Array = NDArray[np.float64]
Widths = NDArray[np.int64]

EDGE = 1e-3  # shares nearer to 0 or 1 than this are taken to be this far


@dataclass(frozen=True)
class Inputs:
    """How networks become the model's inputs.

    `channels` int64 [groups] of the base; `stages`: groups whose widths move together; `methods`:
    pruning methods that tell networks of equal widths apart.
    """

    cost: Cost
    channels: Widths
    stages: Sequence[Sequence[int]]
    methods: Sequence[str] = ()

    def of(self, W: Widths, methods: Sequence[str]) -> Array:
        """Inputs [N, d] of widths W [N, groups] and the methods [N] that cut them."""
        shares = np.log(W / self.channels)
        columns = [np.log(self.cost.of(W) / self.cost.base)]
        if len(self.stages) > 1:
            columns += [shares[:, list(stage)].mean(1) for stage in self.stages]
        names = np.array(methods)
        columns += [(names == name).astype(np.float64) for name in self.methods[1:]]
        return np.column_stack(columns)


@dataclass(frozen=True)
class Networks:
    """Networks as arrays: W int64 [N, groups], method of each, score [N] or NaN."""

    W: Widths
    methods: tuple[str, ...]
    scores: Array

    @classmethod
    def untried(cls, W: Widths, methods: Sequence[str]) -> Networks:
        return cls(W, tuple(methods), np.full(len(W), np.nan))

    def __len__(self) -> int:
        return len(self.W)

    def __getitem__(self, index: slice | Sequence[int] | NDArray[np.int64]) -> Networks:
        methods = np.array(self.methods)[index].tolist()
        return Networks(self.W[index], tuple(methods), self.scores[index])

    def __add__(self, other: Networks) -> Networks:
        scores = np.concatenate([self.scores, other.scores])
        return Networks(np.concatenate([self.W, other.W]), self.methods + other.methods, scores)


class Surrogate:
    """Scores of networks as means and standard deviations, from `known` ones."""

    def __init__(
        self, inputs: Inputs, known: Networks, hyper: Hyperparameters | None = None
    ) -> None:
        self.inputs, self.known = inputs, known
        self.bounded = bool(((known.scores >= 0) & (known.scores <= 1)).all())
        X = inputs.of(known.W, known.methods)
        self._center, self._spread = X.mean(0), np.maximum(X.std(0), 1e-9)
        z = self._to_model(known.scores)
        self._mean, self._std = z.mean(), max(float(z.std()), 1e-9)
        # a score is a mean of coin tosses: its log odds vary by 1 / (p (1 - p))
        odds = np.clip(known.scores, EDGE, 1 - EDGE)
        scale = 1 / (odds * (1 - odds)) if self.bounded else np.ones(len(z))
        scaled, y = self._scale(X), (z - self._mean) / self._std
        self._noise = scale / scale.mean()
        self.hyper = hyper or fit(scaled, y, self._noise)
        self._process = GaussianProcess(scaled, y, self._noise, self.hyper)

    def predict(self, networks: Networks) -> tuple[Array, Array]:
        """Mean [N] and standard deviation [N] of the scores, noise left out."""
        mean, std = self._process.predict(self._scale(self.inputs.of(networks.W, networks.methods)))
        mean, std = mean * self._std + self._mean, std * self._std
        if not self.bounded:
            return mean, std
        score = 1 / (1 + np.exp(-mean))
        return score, std * score * (1 - score)

    def believing(self, pending: Networks) -> Surrogate:
        """The model if each of `pending` scores what it expects (kriging believer)."""
        if not len(pending):
            return self
        mean, _ = self.predict(pending)
        return Surrogate(
            self.inputs,
            self.known + Networks(pending.W, pending.methods, mean),
            self.hyper,
        )

    def _scale(self, X: Array) -> Array:
        return (X - self._center) / self._spread

    def _to_model(self, scores: ArrayLike) -> Array:
        values = np.asarray(scores, dtype=np.float64)
        if not self.bounded:
            return values
        odds = np.clip(values, EDGE, 1 - EDGE)
        return np.log(odds / (1 - odds))
