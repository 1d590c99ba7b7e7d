"""Networks, spaces and a deterministic response surface for the search tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from pruning.graph.channel_graph import ChannelGraph
from pruning.graph.cost import Cost
from pruning.graph.tracing import trace
from pruning.graph.widths import Lattice, lattice
from pruning.models import registry


@dataclass(frozen=True)
class Scalar:
    low: float
    high: float
    log: bool = False
    default: float = 0.5


@cache
def network(name: str) -> tuple[ChannelGraph, Cost, Lattice]:
    shape = (1, 8, 8) if name == "digits" else (3, 32, 32)
    graph = trace(registry.resolve(name), shape)
    return graph, Cost(graph), lattice(graph)


def accuracy(graph: ChannelGraph, widths: Sequence[int]) -> float:
    """Falls smoothly with each group's share of channels, some groups mattering more."""
    share = np.asarray(widths) / graph.widths
    weight = np.linspace(0.5, 1.5, len(share)) / len(share)
    return float(0.1 + 0.85 * np.exp(-0.08 * (weight * (1 / share - 1)).sum()))
