"""What a network is timed in: here PyTorch, on a CPU or a GPU."""

from __future__ import annotations

from functools import partial
from typing import Protocol

import torch
from torch import nn

from pruning.latency.calls import LayerCall
from pruning.latency.devices import describe_device
from pruning.latency.timing import alone, measure
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

    def layer(self, call: LayerCall, rows: int, columns: int) -> float:
        """Time of one layer alone, with so many channels."""
        ...

    def network(self, model: nn.Module, shape: tuple[int, ...]) -> float:
        """Time of a whole network in evaluation mode, on inputs of `shape`."""
        ...


class Torch:
    """Eager PyTorch in float32, images channels-last as trials have them."""

    name = "torch"

    def __init__(self, device: str = "cpu", batch: int = 1) -> None:
        self.device, self.batch = device, batch

    def describe(self) -> str:
        return f"torch {torch.__version__} float32, {describe_device(self.device)}"

    @torch.inference_mode()
    def layer(self, call: LayerCall, rows: int, columns: int) -> float:
        x = torch.zeros(call.input_shape(rows, columns, self.batch), device=self.device)
        weight = torch.zeros(rows, columns, *call.filter.kernel, device=self.device)
        if x.ndim == 4:
            x = x.to(memory_format=torch.channels_last)
            weight = weight.to(memory_format=torch.channels_last)
        with alone(self.device):
            return measure(
                lambda: call.filter.apply(x, weight, None), LAYER_S, self.device
            ).median_ms

    @torch.inference_mode()
    def network(self, model: nn.Module, shape: tuple[int, ...]) -> float:
        model = settle(model, shape, self.device).eval()
        x = torch.zeros(self.batch, *shape, device=self.device)
        if x.ndim == 4:
            x = x.to(memory_format=torch.channels_last)
        with alone(self.device):
            return measure(partial(model, x), NETWORK_S, self.device).median_ms
