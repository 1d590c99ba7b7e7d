"""What is being slimmed: the groups, the widths they may take, and what those cost."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from pruning.graph.channel_graph import ChannelGraph
from pruning.graph.cost import Cost
from pruning.graph.widths import Lattice


@dataclass(frozen=True)
class Problem:
    """A network's groups and the lattice of widths that may be chosen for them."""

    graph: ChannelGraph
    lattice: Lattice

    @cached_property
    def cost(self) -> Cost:
        """MACs and parameters of width vectors."""
        return Cost(self.graph)
