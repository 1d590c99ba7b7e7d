"""What a network is timed in: here PyTorch, on a CPU or a GPU."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from pruning.data import call, moved, repeated
from pruning.latency.calls import LayerCall
from pruning.latency.devices import describe_device
from pruning.latency.timing import Timing, alone, measure
from pruning.models import settle

LAYER_S = 0.01
NETWORK_S = 0.3


class Runtime(Protocol):
    """Where networks run, in batches of `batch`; times are medians in ms."""

    name: str
    batch: int

    def describe(self) -> str:
        """Runtime, version, device and threads: equal where the same times can be expected."""
        ...

    def layer(self, layer: LayerCall, rows: int, columns: int) -> float:
        """Time of one layer alone, with so many channels."""
        ...

    def network(self, model: nn.Module, example: Any) -> Timing:
        """Time of a whole network in evaluation mode.

        example: the shape of one input, or a batch of inputs as the network is called.
        """
        ...


class Torch:
    """Eager PyTorch in float32, images channels-last as trials have them."""

    name = "torch"

    def __init__(self, device: str = "cpu", batch: int = 1) -> None:
        self.device, self.batch = device, batch

    def describe(self) -> str:
        return f"torch {torch.__version__} float32, {describe_device(self.device)}"

    @torch.inference_mode()
    def layer(self, layer: LayerCall, rows: int, columns: int) -> float:
        x = torch.zeros(layer.input_shape(rows, columns, self.batch), device=self.device)
        weight = torch.zeros(rows, columns, *layer.filter.kernel, device=self.device)
        if x.ndim == 4:
            x = x.to(memory_format=torch.channels_last)
            weight = weight.to(memory_format=torch.channels_last)
        with alone(self.device):
            return measure(
                lambda: layer.filter.apply(x, weight, None), LAYER_S, self.device
            ).median_ms

    @torch.inference_mode()
    def network(self, model: nn.Module, example: Any) -> Timing:
        if is_shape(example):
            model = settle(model, example, self.device).eval()
            x: Any = torch.zeros(self.batch, *example, device=self.device)
            if x.ndim == 4:
                x = x.to(memory_format=torch.channels_last)
        else:
            model = model.to(self.device).eval()
            x = moved(repeated(example, self.batch), self.device)
        with alone(self.device):
            return measure(partial(call, model, x), NETWORK_S, self.device)


def is_shape(example: Any) -> bool:
    """Whether it is the shape of one input, and no batch of them."""
    return isinstance(example, tuple) and all(isinstance(n, int) for n in example)
