"""A slim network, and what it is: what one-shot pruning gives."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pruning.data import moved
from pruning.graph import ChannelGraph, Cost
from pruning.models import Argument, ModelInfo, called, registry, save
from pruning.training import evaluation_mode


@dataclass(frozen=True)
class Slimmed:
    """A slim network, and what it is.

    widths: int64 [groups], in the order of `graph`, the whole network's; macs of one image, params;
    pruned: its score right after the cut, if asked for; times in seconds; inputs: what it is called
    with, where that is not one tensor of floats.
    """

    model: nn.Module
    widths: np.ndarray
    pruned: float | None
    cut_s: float
    repair_s: float
    graph: ChannelGraph
    inputs: tuple[Argument, ...] = ()

    @property
    def widths_by_name(self) -> dict[str, int]:
        """Channels kept of each group, by the group's name."""
        names = (group.name for group in self.graph.groups)
        return dict(zip(names, self.widths.tolist(), strict=True))

    @property
    def macs(self) -> int:
        """MACs of convolutions and linear layers for one image."""
        return int(Cost(self.graph).macs(self.widths))

    @property
    def base_macs(self) -> int:
        """The whole network's."""
        return Cost(self.graph).base_macs

    @property
    def params(self) -> int:
        """Parameters."""
        return int(Cost(self.graph).params(self.widths))

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        """Write one safetensors file that `pruning.load` reads.

        `mean` and `std` tell its reader how pixels of 0 to 1 are to be normalised, a number for
        each channel (default: not at all). A network that `resolve` made is built again by its
        name; another is handed in whole, `load(path, base=network)`.
        """
        shape = self.graph.input_shape
        name, args = getattr(self.model, "origin", (registry.handed_in(self.model), {}))
        first = next(self.model.parameters())
        with torch.no_grad(), evaluation_mode(self.model):
            given, named = called(self.inputs, [each.zeros(1) for each in self.inputs])
            given = given if self.inputs else [first.new_zeros(1, *shape)]
            outputs = self.model(*moved(given, first.device), **moved(named, first.device))
        info = ModelInfo(
            model=name,
            args=args,
            input_shape=shape,
            classes=outputs.shape[-1] if isinstance(outputs, Tensor) else 0,
            mean=tuple(mean or [0.0] * shape[0]),
            std=tuple(std or [1.0] * shape[0]),
            widths=self.widths_by_name,
            digest=self.graph.digest(),
            inputs=self.inputs,
        )
        save(self.model, path, info)
