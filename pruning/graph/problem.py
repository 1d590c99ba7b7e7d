"""What is being slimmed: the groups, the widths they may take, and what those cost."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from pruning.graph.channel_graph import ChannelGraph
from pruning.graph.cost import Cost, Latency, Objective
from pruning.graph.widths import Lattice


@dataclass(frozen=True)
class Problem:
    """A network's groups, the lattice of widths that may be chosen for them, and what is saved."""

    graph: ChannelGraph
    lattice: Lattice
    objective: Objective = "macs"
    latency: Latency | None = None

    @cached_property
    def cost(self) -> Cost:
        """What width vectors cost."""
        return Cost(self.graph, self.objective, self.latency)
