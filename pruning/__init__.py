"""Structured channel pruning of any nn.Module: trace, cost, cut, repair, save."""

from pruning.checkpoint import ModelInfo, load, save
from pruning.cost import Cost
from pruning.errors import UserError
from pruning.graph import ChannelGraph, Group, Keep, Layer
from pruning.surgery import cut
from pruning.tracer import trace
from pruning.widths import Lattice, lattice, uniform

__all__ = [
    "ChannelGraph",
    "Cost",
    "Group",
    "Keep",
    "Lattice",
    "Layer",
    "ModelInfo",
    "UserError",
    "cut",
    "lattice",
    "load",
    "save",
    "trace",
    "uniform",
]
