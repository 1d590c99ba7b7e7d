"""What a search could do with a network: its groups, what stays fixed, and the reachable MACs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from pruning.errors import UserError
from pruning.graph import ChannelGraph, Cost, Lattice, trace, uniform
from search.config import SearchConfig
from search.study import limits
from search.trial import base_model


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
    model: nn.Module, input_shape: Sequence[int], search: SearchConfig
) -> tuple[Profile, str]:
    """`model` (left untouched), traced on one input of shape [C, H, W], as this search sees it.

    Also why the search's limits cannot be met; "" where they can.
    """
    graph = trace(model, input_shape, keep=search.keep)
    problem = base_model.problem(graph, search)
    try:
        limits.limits(search, problem)
    except UserError as error:
        return profile_graph(graph, problem.lattice, search.min_ratio), str(error)
    return profile_graph(graph, problem.lattice, search.min_ratio), ""


def profile_graph(graph: ChannelGraph, lat: Lattice, min_ratio: float) -> Profile:
    """The same of a graph that is traced already; min_ratio: smallest share of a group."""
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


def _size(cost: Cost, widths: np.ndarray, ratio: float) -> Size:
    return Size(ratio, int(cost.macs(widths)), int(cost.params(widths)))
