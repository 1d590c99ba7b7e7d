"""What a search could do with a network: its groups, what stays fixed, and the reachable MACs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from pruning.errors import UserError
from pruning.graph import ChannelGraph, Cost, Lattice, lattice, trace, uniform
from search.config import quantity


@dataclass(frozen=True)
class GroupProfile:
    """One group: its widths are `low`, then multiples of `step`, then `channels`."""

    name: str
    channels: int
    granularity: int
    step: int
    low: int
    macs_share: float
    """Share of the base MACs that go when this group alone is cut to `low` (0 to 1)."""


@dataclass(frozen=True)
class Size:
    """One slim version: width ratio of every group, MACs for one image, parameters."""

    ratio: float
    macs: int
    params: int


@dataclass(frozen=True)
class Profile:
    """A network as a search sees it. `fixed`: layer → why its output is never cut."""

    input_shape: tuple[int, ...]
    groups: tuple[GroupProfile, ...]
    fixed: Mapping[str, str]
    layers: int
    minimum: Size
    centre: Size
    maximum: Size
    uncounted: tuple[str, ...] = ()


def profile(
    model: nn.Module,
    input_shape: Sequence[int],
    divisor: int | None = None,
    min_ratio: float = 0.0,
    keep: str = "",
    min_width: Mapping[str, float] | None = None,
) -> Profile:
    """Trace `model` (left untouched) on one input of shape [C, H, W] and measure its widths.

    `divisor` None is automatic. `min_ratio`: smallest share of a group's channels. `keep`,
    `min_width`: what stays, by glob patterns of names (see `trace` and `lattice`).
    """
    graph = trace(model, input_shape, keep=keep)
    lat = lattice(graph, divisor, floor=min_ratio, least=min_width)
    return profile_graph(graph, lat, min_ratio)


def profile_graph(graph: ChannelGraph, lat: Lattice, min_ratio: float) -> Profile:
    """The same for a graph that is traced already."""
    cost = Cost(graph)
    alone = np.tile(lat.high, (len(graph.groups), 1))
    np.fill_diagonal(alone, lat.low)
    freed = 1 - cost.macs(alone) / cost.base_macs if len(graph.groups) else []
    groups = tuple(
        GroupProfile(g.name, g.channels, g.granularity, int(step), int(low), float(share))
        for g, step, low, share in zip(graph.groups, lat.step, lat.low, freed, strict=True)
    )
    middle = (1 + min_ratio) / 2
    return Profile(
        input_shape=graph.input_shape,
        groups=groups,
        fixed=dict(graph.fixed),
        layers=len(graph.layers),
        uncounted=graph.uncounted,
        minimum=_size(cost, lat.low, min_ratio),
        centre=_size(cost, uniform(graph, lat, middle), middle),
        maximum=_size(cost, lat.high, 1.0),
    )


def require_satisfiable(
    found: Profile,
    *,
    max_macs: str | float | None = None,
    min_macs: str | float | None = None,
    max_params: str | float | None = None,
) -> None:
    """Raise UserError, with what is reachable and a remedy, where no slim version can comply."""
    low, high = found.minimum, found.maximum
    if not found.groups:
        raise UserError("no channels of this network can be removed; slimfront profile says why")
    most = _limit(max_macs, "search.max_macs", low.macs, high.macs, "MACs")
    _limit(max_params, "search.max_params", low.params, high.params, "parameters")
    if min_macs is None:
        return
    least = quantity.parse(min_macs, "search.min_macs").of(high.macs)
    if least > high.macs:
        raise UserError(
            f"search.min_macs {min_macs} cannot be met: the base model has "
            f"{quantity.human(high.macs)} MACs; lower it"
        )
    if most is not None and least >= most:
        raise UserError(
            f"search.min_macs {min_macs} is not below search.max_macs {max_macs}; lower it"
        )


def _limit(
    given: str | float | None, key: str, smallest: int, base: int, unit: str
) -> float | None:
    if given is None:
        return None
    limit = quantity.parse(given, key).of(base)
    if limit < smallest:
        least, whole = quantity.human(smallest), quantity.human(base)
        raise UserError(
            f"{key} {given} cannot be met: the smallest slim version has {least} {unit}, "
            f"{smallest / base:.1%} of {whole}; raise the limit, or lower search.min_ratio "
            "or search.divisor"
        )
    return limit


def _size(cost: Cost, widths: np.ndarray, ratio: float) -> Size:
    return Size(ratio, int(cost.macs(widths)), int(cost.params(widths)))
