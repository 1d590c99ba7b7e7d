"""The layers of a network as they are called: what has to be timed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning.data import call, moved, repeated
from pruning.graph import ChannelGraph
from pruning.reconstruction import Filter, layers_called
from pruning.training import evaluation_mode


@dataclass(frozen=True)
class LayerCall:
    """One call of a convolution or linear layer.

    rows, columns: the weight's first two sides in the whole network. size: the sides of its input
    without the channels; of a linear layer, how many vectors one image gives.
    """

    weight: str
    filter: Filter
    rows: int
    columns: int
    size: tuple[int, ...]

    @property
    def shape(self) -> str:
        """What its time depends on besides the channels: equal for layers of one kind."""
        how = self.filter
        return (
            f"kernel {how.kernel} stride {how.stride} padding {how.padding} "
            f"dilation {how.dilation} per group {self.group_rows} size {self.size}"
        )

    @property
    def group_rows(self) -> int:
        """Output channels of one group of a grouped convolution; 0 where there is one group."""
        return self.rows // self.filter.groups if self.filter.groups > 1 else 0

    def groups(self, rows: int) -> int:
        """Groups of the convolution once it has `rows` output channels."""
        return rows // self.group_rows if self.group_rows else 1

    def input_shape(self, rows: int, columns: int, batch: int) -> tuple[int, ...]:
        """Of the input that it reads with these channels."""
        if not self.filter.kernel:
            return (batch * math.prod(self.size), columns)
        return (batch, columns * self.groups(rows), *self.size)


@torch.no_grad()
def layer_calls(
    model: nn.Module, graph: ChannelGraph, example: Any = None
) -> tuple[LayerCall, ...]:
    """Every call of a convolution or linear layer for one image; the model is left as it was.

    example: a batch of inputs, where the network takes more than one tensor.
    """
    found: list[LayerCall] = []
    shapes = {layer.weight: graph.shapes[layer.weight] for layer in graph.layers}

    def see(name: str, x: Tensor, out: Tensor, how: Filter) -> None:
        if how.stretch:
            return  # a part of what whole networks take besides
        rows, columns = shapes[name][:2]
        size = tuple(x.shape[2:]) if how.kernel else tuple(x.shape[1:-1])
        found.append(LayerCall(name, how, rows, columns, size))

    device = next(model.parameters()).device
    with evaluation_mode(model), layers_called(model, set(shapes), see):
        if example is None:
            model(torch.zeros(1, *graph.input_shape, device=device))
        else:
            call(model, moved(repeated(example, 1), device))
    return tuple(found)
