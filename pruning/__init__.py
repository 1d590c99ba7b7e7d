"""Structured channel pruning of any nn.Module: trace, cost, cut, repair, save.

Names load on first use: importing this package alone costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pruning.errors import UserError
    from pruning.graph.channel_graph import ChannelGraph, Group, Keep, Layer
    from pruning.graph.cost import Cost
    from pruning.graph.surgery import cut
    from pruning.graph.tracing import trace
    from pruning.graph.widths import Lattice, lattice, uniform
    from pruning.models.checkpoint import ModelInfo, load, save
    from pruning.oneshot import Slimmed, prune

_HOME = {
    "ModelInfo": "pruning.models.checkpoint",
    "load": "pruning.models.checkpoint",
    "save": "pruning.models.checkpoint",
    "Cost": "pruning.graph.cost",
    "UserError": "pruning.errors",
    "ChannelGraph": "pruning.graph.channel_graph",
    "Group": "pruning.graph.channel_graph",
    "Keep": "pruning.graph.channel_graph",
    "Layer": "pruning.graph.channel_graph",
    "Slimmed": "pruning.oneshot",
    "prune": "pruning.oneshot",
    "cut": "pruning.graph.surgery",
    "trace": "pruning.graph.tracing",
    "Lattice": "pruning.graph.widths",
    "lattice": "pruning.graph.widths",
    "uniform": "pruning.graph.widths",
}

__all__ = [
    "ChannelGraph",
    "Cost",
    "Group",
    "Keep",
    "Lattice",
    "Layer",
    "ModelInfo",
    "Slimmed",
    "UserError",
    "cut",
    "lattice",
    "load",
    "prune",
    "save",
    "trace",
    "uniform",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pruning' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
