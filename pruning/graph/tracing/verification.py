"""Compare a network that was cut with the whole one in which nobody hears the removed channels.

Both run on noise, and every layer's output is compared, so that an error is seen where it is made.
Weights that are all alike (scales of one, shifts and last layers of zero) would hide errors: the
twins get random ones in their place.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pruning.graph.channel_graph import ChannelGraph, Keep
from pruning.graph.masking import masked
from pruning.graph.parts import Layer
from pruning.graph.surgery import cut
from pruning.graph.tracing.inputs import Inputs
from pruning.graph.tracing.labels import tensors_in
from pruning.graph.tracing.record import Place
from pruning.graph.tracing.recorder import Places
from pruning.graph.twins import named_tensors, twin

WATCHED: set[Any] = {
    *(F.conv1d, F.conv2d, F.conv3d, F.linear, torch.conv1d, torch.conv2d, torch.conv3d),
    *(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
}
TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-3}  # of a layer's largest output


@dataclass(frozen=True)
class Fault:
    """A cut network that goes wrong: why, and the line of code or the layer where it shows.

    error: the largest difference, relative to the layer's output; infinite where the code raises.
    """

    why: str
    place: Place | None = None
    weight: str | None = None
    error: float = math.inf


class UnsuitableError(Exception):
    """The whole network does not run on these inputs."""


class Bench:
    """Twins of a network with lively weights, and noise to run them on."""

    def __init__(self, model: nn.Module, inputs: Inputs, dtype: torch.dtype | None) -> None:
        self.whole = lively(model, dtype)
        self.inputs = inputs
        self.tolerance = TOLERANCE.get(dtype or torch.float16, 0.05)

    def fault(
        self, graph: ChannelGraph, keep: Keep, norms: Mapping[Place, tuple[int, np.ndarray]]
    ) -> Fault | None:
        """What goes wrong where only `keep` stays; None if all layers and outputs agree.

        norms: calls that normalise over channels, as (dimension, flat units along it): the whole
        network normalises over those that stay, too. UnsuitableError where it does not run.
        """
        kept = graph.kept_units(keep)
        whole, slim = _Watch(self.whole, graph, kept, norms), None
        with masked(self.whole, graph, np.flatnonzero(~kept[:-1])):
            try:
                theirs = self._run(self.whole, whole)
            except Exception as error:
                raise UnsuitableError(str(error)) from error
        small = cut(self.whole, graph, keep)
        slim = _Watch(small, graph, None, {})
        try:
            ours = self._run(small, slim)
        except Exception as error:
            del error
            return Fault("its code needs this channel count", slim.place)
        return self._compare(slim, whole) or self._outputs(ours, theirs)

    def _run(self, model: nn.Module, watch: _Watch) -> Any:
        device = next((t.device for t in model.parameters()), torch.device("cpu"))
        args, kwargs = self.inputs.on(device)
        with torch.no_grad(), watch:
            return model(*args, **kwargs)

    def _compare(self, slim: _Watch, whole: _Watch) -> Fault | None:
        for (weight, call), theirs in whole.outputs.items():
            ours = slim.outputs.get((weight, call))
            if ours is not None and ours.shape == theirs.shape:
                error = _difference(ours, theirs)
                if error > self.tolerance:
                    why = (
                        f"cut and whole network differ by {error:.1%} in what {weight} makes of it"
                    )
                    return Fault(why, weight=weight, error=error)
        return None

    def _outputs(self, ours: Any, theirs: Any) -> Fault | None:
        for mine, other in zip(tensors_in(ours), tensors_in(theirs), strict=False):
            if mine.shape[1:] != other.shape[1:]:
                return Fault("its output changes its shape")
            # the number of boxes that a detector finds is not the same for the least difference
            if mine.shape == other.shape and mine.is_floating_point():
                error = _difference(mine, other)
                if error > self.tolerance:
                    sort = (mine.reshape(-1).sort().values, other.reshape(-1).sort().values)
                    if _difference(*sort) > self.tolerance:
                        return Fault(f"cut and whole network differ by {error:.1%}", error=error)
        return None


def lively(model: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """A twin in evaluation mode and of this precision, none of whose tensors is all one value."""
    generator = torch.Generator().manual_seed(0)

    def fresh(name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor.detach().clone()
        value = tensor.detach().to(dtype or tensor.dtype, copy=True)
        if value.numel() > 1 and bool((value == value.reshape(-1)[0]).all()):
            noise = torch.rand(value.shape, generator=generator).to(value)
            fan = max(1, value[0].numel()) if value.ndim > 1 else 1
            positive = float(value.reshape(-1)[0]) > 0
            value = 0.5 + noise if positive and value.ndim < 2 else (noise - 0.5) * 2 / fan**0.5
        return value

    tensors = {name: fresh(name, tensor) for name, tensor in named_tensors(model).items()}
    return twin(model, tensors).eval().requires_grad_(False)


def irregular(graph: ChannelGraph, seed: int = 0) -> Keep:
    """About half of every group's units, an odd number of no regular pattern, the first not."""
    random = np.random.default_rng(seed)
    keep = []
    for group in graph.groups:
        count = max(1, (group.units // 2) | 1) if group.units > 2 else 1
        keep.append(np.sort(random.permutation(group.units)[:count]))
    return tuple(keep)


class _Watch(TorchFunctionMode):
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


class _NormCall:
    """Arguments of F.layer_norm, F.rms_norm and F.group_norm, however they are passed."""

    def __init__(self, input: Tensor, *args: Any, **kwargs: Any) -> None:
        given = [*args]
        for name in ("normalized_shape", "num_groups", "weight", "bias", "eps"):
            if name in kwargs:
                given.append(kwargs[name])
        self.input, self.shape, self.rest = input, given[0], given[1:]


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest value; NaN and infinities of `theirs` aside."""
    good = theirs.isfinite()
    if not bool(good.any()):
        return 0.0
    scale = theirs[good].abs().max().clamp_min(1e-12)
    worst = (ours[good] - theirs[good]).abs().max() / scale
    return float(worst) if bool(worst.isfinite()) else math.inf
