"""Networks that a sampler may propose: over the whole space, and around those that are good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from search.study.ehvi.surrogate import Array, Networks
from search.study.width_space import METHOD, RATIO, WidthSpace

APART = 0.4  # how far stages of random networks lie from the scale, in log widths
STEPS = (0.05, 0.1, 0.2, 0.4)  # how far mutants lie from their parents, in log widths
MOVED = 2.0  # stages that a mutant moves apart from the others, on average


@dataclass(frozen=True)
class Candidates:
    """Networks, and the log shares of channels [N, stages] that made them."""

    shares: Array
    networks: Networks

    def __len__(self) -> int:
        return len(self.shares)

    def __getitem__(self, index: Any) -> Candidates:
        return Candidates(self.shares[index], self.networks[index])

    def __add__(self, other: Candidates) -> Candidates:
        return Candidates(
            np.concatenate([self.shares, other.shares]), self.networks + other.networks
        )


class Moves:
    """Draws networks of a space of widths, stage by stage, with `rng`."""

    def __init__(self, space: WidthSpace, rng: np.random.Generator) -> None:
        self.space, self.rng = space, rng
        self.stages = list(space.members.values()) or [list(range(len(space.graph.groups)))]

    def costs(self, networks: Networks) -> Array:
        """Shares of what the base costs [N]."""
        return np.asarray(self.space.cost.of(networks.W) / self.space.cost.base)

    def random(self, count: int) -> Candidates:
        """Networks over the whole range of scales, even in width."""
        least = (self.space.lat.low / self.space.graph.widths).min()
        scale = np.log(self.rng.uniform(least, 1, (count, 1)))
        return self._made(scale + self.rng.uniform(-APART, APART, (count, len(self.stages))))

    def mutants(self, parents: Array, count: int) -> Candidates:
        """Networks between two neighbours of `parents` [N, stages], all and some stages resized."""
        rng, stages = self.rng, len(self.stages)
        first = rng.integers(len(parents), size=count)
        second = np.minimum(first + 1, len(parents) - 1)
        weight = rng.uniform(0, 1, (count, 1)) * (rng.random((count, 1)) < 0.5)
        between = (1 - weight) * parents[first] + weight * parents[second]
        moved = rng.random((count, stages)) < MOVED / stages
        steps = rng.normal(size=(count, 1)) + 2 * moved * rng.normal(size=(count, stages))
        return self._made(between + rng.choice(STEPS, (count, 1)) * steps)

    def encode(self, networks: Networks) -> Array:
        """Log shares [N, stages], sorted by cost."""
        ordered = networks.W[np.argsort(self.costs(networks), kind="stable")]
        shares = np.log((ordered - self.space.phase) / self.space.graph.widths)
        return np.column_stack([shares[:, stage].mean(1) for stage in self.stages])

    def params(self, chosen: Candidates) -> dict[str, Any]:
        """The space's parameters of one candidate: they resolve to its widths again."""
        space, kept = self.space, np.exp(chosen.shares[0])
        params: dict[str, Any] = {RATIO: float(self.costs(chosen.networks)[0])}
        params[RATIO] = float(np.clip(params[RATIO], space.low, space.high))
        if METHOD in space.distributions():
            params[METHOD] = chosen.networks.methods[0]
        bound = space.offset_range
        if bound > 0:
            scale = np.sqrt(kept.max() / (1 + bound) * kept.min() / (1 - bound))
            offsets = np.clip(kept / scale - 1, -bound, bound)
            params |= dict(zip(space.members, offsets.tolist(), strict=True))
        return params

    def _made(self, shares: Array) -> Candidates:
        """The networks of log shares, these brought within the space's offsets of each other."""
        bound, shares = self.space.offset_range, np.minimum(shares, 0.0)
        widest, middle = np.log((1 + bound) / (1 - bound)), shares.mean(1, keepdims=True)
        spread = np.maximum(np.ptp(shares, axis=1, keepdims=True), 1e-12)
        shares = middle + (shares - middle) * np.minimum(1.0, widest / spread)
        groups = np.zeros((len(shares), len(self.space.graph.groups)))
        for column, stage in enumerate(self.stages):
            groups[:, stage] = shares[:, [column]]
        names = self.space.methods
        drawn = self.rng.integers(len(names), size=len(shares))
        methods, W = [names[i] for i in drawn], self.space.widths(np.exp(groups))
        return Candidates(shares, Networks.untried(W, methods))
