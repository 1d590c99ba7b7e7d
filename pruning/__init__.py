"""Structured channel pruning of any nn.Module: trace, cost, cut, repair, save.

Names load on first use: importing this package alone costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pruning.checkpoint import ModelInfo, load, save
    from pruning.cost import Cost
    from pruning.errors import UserError
    from pruning.graph import ChannelGraph, Group, Keep, Layer
    from pruning.pipeline import Slimmed, prune
    from pruning.surgery import cut
    from pruning.tracer import trace
    from pruning.widths import Lattice, lattice, uniform

_HOME = {
    "ModelInfo": "checkpoint",
    "load": "checkpoint",
    "save": "checkpoint",
    "Cost": "cost",
    "UserError": "errors",
    "ChannelGraph": "graph",
    "Group": "graph",
    "Keep": "graph",
    "Layer": "graph",
    "Slimmed": "pipeline",
    "prune": "pipeline",
    "cut": "surgery",
    "trace": "tracer",
    "Lattice": "widths",
    "lattice": "widths",
    "uniform": "widths",
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
    return getattr(importlib.import_module(f"pruning.{_HOME[name]}"), name)
