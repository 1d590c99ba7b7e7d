"""What a sampler chooses, and the slim networks that it stands for. Pure functions of parameters.

Every proposal has the parameter `ratio`, the share of the base model's cost to aim at, sampled
evenly in log: the whole range of the frontier is visited, whatever else is chosen. Independent
widths would concentrate near the mean (50 groups, 200 trials: 20-40 % of the MACs).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)

from pruning.errors import UserError
from pruning.graph import ChannelGraph, Cost, Lattice, fit
from search.study.candidate import Limits, Proposal
from search.study.limits import allowed, raised, reach

RATIO = "ratio"
KIND = "kind"
METHOD = "method"
OFFSET = "o."
MANY_GROUPS = 20  # more offsets than this are not learnt in a few hundred trials: go by stage

Params: TypeAlias = dict[str, Any]
Distributions: TypeAlias = dict[str, BaseDistribution]
Widths: TypeAlias = NDArray[np.int64]


class Space(Protocol):
    """The contract between a study and what it searches."""

    def distributions(self, params: Mapping[str, Any] | None = None) -> Distributions:
        """Parameters and ranges; given the choices already made, only those that apply."""

    def resolve(self, params: Mapping[str, Any]) -> Proposal:
        """The proposal that complete parameters stand for."""

    def encode(self, widths: Sequence[int] | Widths, method: str | None = None) -> Params:
        """Parameters that stand for a width vector, exactly or as closely as they can."""


class WidthSpace:
    """A global share of the cost and bounded offsets of the widths per group or per stage.

    Width of group g = snap(u · (1 + offset) · channels), with the scale u solved so that the cost
    is the largest that does not exceed the share asked for. A stage is the groups at one
    resolution, the residual stream apart from the inner channels; its groups step one after the
    other as u grows, lest nine of them at once make the cost jump and proposals coincide.
    """

    kind = "widths"

    def __init__(
        self,
        graph: ChannelGraph,
        cost: Cost,
        lat: Lattice,
        *,
        methods: Sequence[str] = ("uniform",),
        low: float = 0.05,
        high: float = 1.0,
        offsets: str = "auto",
        offset_range: float = 0.7,
        limits: Limits | None = None,
    ) -> None:
        """`low`, `high`: costs as shares of the base; `offsets`: group | stage | auto | none.

        Nothing outside `limits` is proposed, as far as the lattice has anything within.
        """
        if not 0 <= offset_range < 1:
            raise UserError(f"offset_range {offset_range}: choose a share from 0 to below 1")
        self.graph, self.cost, self.lat = graph, cost, lat
        self.methods = tuple(methods)
        self.limits = limits or Limits()
        self.low, self.high = reach(cost, lat, low, high, self.limits)
        self.offset_range = offset_range
        members = offset_groups(graph, offsets)
        self.members: dict[str, list[int]] = {OFFSET + name: m for name, m in members.items()}
        self.phase = _phases(self.members.values(), lat.step)
        self._distributions: Distributions = {
            RATIO: FloatDistribution(self.low, self.high, log=True)
        }
        self._distributions |= choice(METHOD, self.methods)
        if offset_range > 0:
            bounds = FloatDistribution(-offset_range, offset_range)
            self._distributions |= dict.fromkeys(self.members, bounds)

    def distributions(self, params: Mapping[str, Any] | None = None) -> Distributions:
        return dict(self._distributions)

    def resolve(self, params: Mapping[str, Any]) -> Proposal:
        asked = self.cost.budget(params[RATIO])
        widths = self._widths(asked, self._multipliers(params))
        method = params.get(METHOD, self.methods[0])
        return Proposal(self.kind, method, asked, tuple(widths.tolist()))

    def encode(self, widths: Sequence[int] | Widths, method: str | None = None) -> Params:
        """Exact where a single scale keeps every multiplier within the offset range."""
        vector = np.asarray(widths, dtype=np.int64)
        ratio = float(self.cost.of(vector)) / self.cost.base
        params: Params = {RATIO: float(np.clip(ratio, self.low, self.high))}
        if METHOD in self._distributions:
            params[METHOD] = method if method in self.methods else self.methods[0]
        if self.offset_range > 0 and self.members:
            params |= self._encode_offsets(vector)
        return params

    def widths(self, shares: NDArray[np.float64]) -> Widths:
        """Widths at shares of the channels, float [..., groups] → int64; 1 and more is whole."""
        channels = self.graph.widths
        return self.lat.snap(np.where(shares < 1, shares * channels + self.phase, channels))

    def _encode_offsets(self, widths: Widths) -> Params:
        """Offsets around the common scale that leaves the most of them within their range."""
        kept = (widths - self.phase) / self.graph.widths
        shares = {name: float(np.exp(np.log(kept[m]).mean())) for name, m in self.members.items()}
        values = np.array(list(shares.values()))
        lowest, highest = (
            values.max() / (1 + self.offset_range),
            values.min() / (1 - self.offset_range),
        )
        scale = float(np.median(values))
        if lowest <= highest:
            scale = float(np.clip(scale, lowest, highest))
        bound = self.offset_range
        return {name: float(np.clip(s / scale - 1, -bound, bound)) for name, s in shares.items()}

    def _multipliers(self, params: Mapping[str, Any]) -> NDArray[np.float64]:
        multipliers = np.ones(len(self.graph.groups))
        for name, members in self.members.items():
            multipliers[members] += params.get(name, 0.0)
        return multipliers

    def _widths(self, budget: float, multipliers: NDArray[np.float64]) -> Widths:
        reach = multipliers * (1.0 / multipliers.min())  # at t = 1 every group is whole

        def family(t: float) -> Widths:
            return self.widths(t * reach)

        found = fit(self.cost, family, budget, allowed=partial(allowed, self.limits, self.cost))
        return raised(self.limits, self.cost, self.lat, found)


def complete(space: Space, params: Mapping[str, Any]) -> Distributions | None:
    """Distributions of complete, valid parameters; None if one is missing, foreign or outside."""
    try:
        wanted = space.distributions(params)
    except KeyError:  # a method or kind that this space has not
        return None
    if set(wanted) != set(params):
        return None
    valid = all(_contains(distribution, params[name]) for name, distribution in wanted.items())
    return wanted if valid else None


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution)
    return isinstance(value, int | float) and distribution.low <= value <= distribution.high


def offset_groups(graph: ChannelGraph, offsets: str) -> dict[str, list[int]]:
    """Which groups' widths move together, by name. offsets: group | stage | auto | none."""
    if offsets == "auto":
        offsets = "stage" if len(graph.groups) > MANY_GROUPS else "group"
    return {"group": _by_group, "stage": _by_stage, "none": lambda graph: {}}[offsets](graph)


def _by_group(graph: ChannelGraph) -> dict[str, list[int]]:
    return {_name(group.name): [i] for i, group in enumerate(graph.groups)}


def _by_stage(graph: ChannelGraph) -> dict[str, list[int]]:
    stages: dict[str, list[int]] = {}
    for i, writers in enumerate(graph.producers):
        layers = [graph.layers[w] for w in writers]
        # a depthwise layer writes the group it reads: only dense writers make a stream
        stream = sum(layer.conv_groups == 1 for layer in layers) > 1
        positions = max((layer.positions for layer in layers), default=0)
        stages.setdefault(f"{'stream' if stream else 'inner'}{positions}", []).append(i)
    return stages


def _phases(stages: Iterable[list[int]], step: Widths) -> NDArray[np.float64]:
    """Channels [groups] by which to shift before rounding: up to half a step, spread in a stage."""
    phase = np.zeros(len(step))
    for members in stages:
        if len(members) > 1:
            # golden ratio: neighbours far apart, so neither end of a stage is favoured
            spread = (0.6180339887 * np.arange(1, len(members) + 1)) % 1 - 0.5
            phase[members] = spread * step[members]
    return phase


def _name(group: str) -> str:
    return group.replace("/", ".")  # Ray Tune unflattens names at "/"


def choice(name: str, options: tuple[str, ...]) -> Distributions:
    return {name: CategoricalDistribution(options)} if len(options) > 1 else {}
