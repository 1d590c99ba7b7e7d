"""A response surface of ResNet-56 on CIFAR-10, for benchmarks of the search without training.

Measured (surface_resnet56.json, made on a CPU with the trained weights): what cutting each of the
30 groups alone to 75, 50, 25 and 12.5 % of its channels does to the loss, BN re-estimated; and
loss and accuracy of 56 width vectors that cut all of them. Fitted: damage
    Z = 0.73 · Σ loss increases of residual streams + 0.75 · Σ (loss increases of inner convs)^0.80
explains the losses of the 56 with R² 0.997. So accuracy before any gradient step is a measurement.

Calibrated, not measured: accuracy after 10 epochs is 94 % less 0.022 Z^0.76 (what fine-tuning does
not bring back) and less 0.018 κ^1.5, κ the mean of channels/kept − 1, half of it over streams (what
a small network cannot do). The three numbers put uniform widths at 91 % with 47 % of the MACs, at
87.5 % with 25 % (Torch-Pruning's one-shot results with these weights) and at about 51 % with 1.6 %
(a guess). Twelve of the width vectors, trained on two epochs of 4,096 images on a CPU, come in the
order that this says (Spearman 0.88; they are in the table, and not used). Learning curves, assumed:
the gap to the last accuracy falls exponentially, slower for what is damaged more, with noise of
training five times that of the end at first. Noise of the end: of scoring on 5,000 images, and 0.3
points between seeds.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
TABLE = Path(__file__).with_name("surface_resnet56.json")
STREAMS = (0, 11, 21)
EPOCHS = 10
BEST, CHANCE = 0.94, 0.1
IMAGES, SEED_STD = 5000, 0.003


class Surface:
    """Accuracies of width vectors W, int64 [N, 30]; `noise` False: what they are on average."""

    def __init__(self, noise: bool = True, seed: int = 0) -> None:
        table = json.loads(TABLE.read_text())
        self.channels = np.array(table["channels"])
        self.joint = table["joint"]
        self.noise, self.seed = noise, seed
        base = table["base"][1]
        self._curves: list[tuple[Array, Array]] = []
        for group, channels in enumerate(self.channels):
            points = {float(channels): 0.0}
            points |= {w: max(0.0, loss - base) for g, w, loss in table["single"] if g == group}
            kept = np.array(sorted(points, reverse=True))
            rise = np.maximum.accumulate([points[w] for w in kept])
            self._curves.append((np.log(kept[::-1] / channels), rise[::-1]))

    @cached_property
    def _stream(self) -> NDArray[np.bool_]:
        return np.isin(np.arange(len(self.channels)), STREAMS)

    def damage(self, W: NDArray[np.int64]) -> Array:
        """Z [N] of W [N, groups]."""
        shares = np.log(np.atleast_2d(W) / self.channels)
        rises = np.column_stack(
            [np.interp(shares[:, g], *curve) for g, curve in enumerate(self._curves)]
        )
        inner = (rises[:, ~self._stream] ** 0.80).sum(1)
        return 0.73 * rises[:, self._stream].sum(1) + 0.75 * inner

    def loss(self, W: NDArray[np.int64]) -> Array:
        """Cross-entropy [N] after BN was re-estimated, before any gradient step."""
        return 0.046 + 2.34 * (1 - np.exp(-(self.damage(W) ** 1.545)))

    def recalibrated(self, W: NDArray[np.int64]) -> Array:
        """Top-1 [N] after BN was re-estimated, before any gradient step."""
        pairs = sorted((loss, top1) for _, _, top1, loss in self.joint)
        losses, top1 = np.array(pairs).T
        smooth = np.minimum.accumulate(top1)
        return np.maximum(CHANCE, BEST * np.interp(self.loss(W), losses, smooth))

    def end(self, W: NDArray[np.int64]) -> Array:
        """Top-1 [N] after all epochs."""
        over = self.channels / np.atleast_2d(W) - 1
        small = 0.5 * over[:, self._stream].mean(1) + 0.5 * over[:, ~self._stream].mean(1)
        lost = 0.0218 * self.damage(W) ** 0.755 + 0.018 * small**1.5
        return np.maximum(CHANCE, BEST - lost)

    def curve(self, widths: Sequence[int]) -> Array:
        """Top-1 [EPOCHS + 1] of one network before training and after each epoch."""
        W = np.array([widths])
        first, last = self.recalibrated(W)[0], self.end(W)[0]
        epochs = np.arange(EPOCHS + 1)
        slow = 1.0 + 0.6 * min(2.0, self.damage(W)[0])
        gap = np.exp(-epochs / slow) * (1 - epochs / EPOCHS) + 0.05 * (1 - epochs / EPOCHS) ** 2
        mean = last - (last - first) * gap / gap[0]
        if not self.noise:
            return mean
        rng = np.random.default_rng([self.seed, zlib.crc32(W.tobytes())])
        training = SEED_STD * (1 + 4 * (1 - epochs / EPOCHS)) * (epochs > 0)
        scoring = np.sqrt(mean * (1 - mean) / IMAGES)
        return np.clip(mean + np.hypot(training, scoring) * rng.normal(size=len(mean)), 0, 1)
