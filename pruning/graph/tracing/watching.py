"""What a network computes, layer by layer, kept for a comparison; norms as after a cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pruning.graph.channel_graph import ChannelGraph
from pruning.graph.parts import Layer
from pruning.graph.tracing.record import Place
from pruning.graph.tracing.recorder import Places, computed, name_of
from pruning.graph.twins import named_tensors

WATCHED: set[Any] = {
    *(F.conv1d, F.conv2d, F.conv3d, F.linear, torch.conv1d, torch.conv2d, torch.conv3d),
    *(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
}
BOXES = 16
"""Of a detector's thousand: what is computed for each of them is the same."""


class Watch(TorchFunctionMode):
    """Keeps the outputs of layers: of the whole network only what stays of them."""

    def __init__(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        kept: np.ndarray | None,
        norms: Mapping[Place, tuple[int, np.ndarray]],
    ) -> None:
        super().__init__()
        self.graph, self.kept, self.norms = graph, kept, norms
        self.names = {id(tensor): name for name, tensor in named_tensors(model).items()}
        self.layers = {layer.weight: layer for layer in graph.layers}
        self.calls: Counter[str] = Counter()
        self.outputs: dict[tuple[str, int], Tensor] = {}
        self.places = Places()
        self.place: Place | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        place = self.places.here()
        self.place = place or self.place
        if place is not None and place in self.norms:
            return self._norm_of_rest(func, self.norms[place], args, kwargs)
        out = func(*args, **kwargs)
        if name_of(func) == "nms":
            return out[:BOXES]
        if func in WATCHED:
            weight = kwargs["weight"] if "weight" in kwargs else args[1]
            name = self.names.get(id(weight))
            if name in self.layers:
                self._keep(self.layers[name], out)
        return out

    def _keep(self, layer: Layer, out: Tensor) -> None:
        self.calls[layer.weight] += 1
        if layer.kind == "conv_transpose" and layer.conv_groups > 1:
            return
        dim = -1 if layer.kind == "linear" else out.ndim - len(self.graph.shapes[layer.weight]) + 1
        if self.kept is None:
            out = out.clone()
        else:
            rows = self.graph.kept_positions(layer.weight, layer.written, self.kept)
            out = out.index_select(dim, torch.from_numpy(rows).to(out.device))
        self.outputs[layer.weight, self.calls[layer.weight]] = out

    def _norm_of_rest(
        self, func: Callable[..., Any], norm: tuple[int, np.ndarray], args: Any, kwargs: Any
    ) -> Any:
        """The whole network's norm over the channels that stay; zeros at the others."""
        dim, units = norm
        assert self.kept is not None
        bound = _NormCall(*args, **kwargs)
        rows = torch.from_numpy(np.flatnonzero(self.kept[units])).to(bound.input.device)
        part = bound.input.index_select(dim, rows)
        if isinstance(bound.shape, int):  # group norm
            offset, shape = dim, bound.shape
        else:
            offset = bound.input.ndim - len(bound.shape)
            shape = part.shape[offset:]  # type: ignore[assignment]
        rest = [
            t.index_select(dim - offset, rows) if isinstance(t, Tensor) else t for t in bound.rest
        ]
        out = torch.zeros_like(bound.input)
        return out.index_copy(dim, rows, func(part, shape, *rest))


class Shapes(TorchFunctionMode):
    """A run on the meta device, to see where it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.places = Places()
        self.place: Place | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.place = self.places.here() or self.place
        return computed(name_of(func), func, args, kwargs or {})


class _NormCall:
    """Arguments of F.layer_norm, F.rms_norm and F.group_norm, however they are passed."""

    def __init__(self, input: Tensor, *args: Any, **kwargs: Any) -> None:
        given = [*args]
        for name in ("normalized_shape", "num_groups", "weight", "bias", "eps"):
            if name in kwargs:
                given.append(kwargs[name])
        self.input, self.shape, self.rest = input, given[0], given[1:]
