"""Give back on average what removed channels contributed: their means, folded into biases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pruning.graph import ChannelGraph, Keep, tensors_in
from pruning.reconstruction.covariance import taps_of
from pruning.training import evaluation_mode


@torch.no_grad()
def fold_means(
    slim: nn.Module,
    whole: nn.Module,
    graph: ChannelGraph,
    keep: Keep,
    means: Mapping[str, np.ndarray],
    norms: Mapping[str, str],
) -> None:
    """Add W·E[x] of the removed inputs to every layer that read some, in place on `slim`.

    `slim` is `cut(whole, graph, keep)`. means: float64 [taps, inputs] by weight name, of the whole
    network's patches; norms: by weight name the BN that alone reads the layer's output. A layer
    without a bias changes that BN's mean, or gets a bias.
    """
    kept = graph.kept_units(keep)
    state = dict(whole.named_parameters())
    for name, mean in means.items():
        gone = np.flatnonzero(~kept[graph.axes[name, 1]])
        if len(gone):
            rows = graph.kept_positions(name, 0, kept)
            weight = taps_of(state[name])[rows][:, gone]
            lost = torch.einsum("ock,kc->o", weight, torch.from_numpy(mean)[:, gone])
            add_to_output(slim, name.rpartition(".")[0], lost, norms.get(name))


def norms_after(model: nn.Module, graph: ChannelGraph, x: Tensor) -> dict[str, str]:
    """By weight name the module name of the BN that alone reads that layer's output.

    x: a few images. Layers whose output goes elsewhere (too) are left out.
    """
    watch = _Outputs(model, [layer.weight for layer in graph.layers])
    with evaluation_mode(model), torch.no_grad(), watch:
        model(x)
    return {
        name: readers[0]
        for name, readers in watch.readers.items()
        if len(readers) == 1 and readers[0] is not None
    }


def add_to_output(slim: nn.Module, layer: str, lost: Tensor, norm: str | None) -> None:
    """Raise an output by `lost` [rows]: by its bias, else the BN after it, else a new bias."""
    module = slim.get_submodule(layer)
    bias = module.bias
    value = lost.to(module.weight)  # type: ignore[arg-type]
    if bias is not None:
        bias.add_(value)
    elif norm is not None:
        # the BN subtracts its mean: a lower one is a higher input
        slim.get_submodule(norm).running_mean.sub_(value)
    else:
        module.bias = nn.Parameter(value)


class _Outputs(TorchFunctionMode):
    """Records who reads each layer's output: BNs by name, anything else as None."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        parameters = dict(model.named_parameters())
        self.weights = {id(parameters[name]): name for name in names}
        self.norms = {
            id(buffer): name.rpartition(".")[0]
            for name, buffer in model.named_buffers()
            if name.endswith("running_mean")
        }
        self.outputs: dict[int, tuple[str, Tensor]] = {}  # holds the tensor: ids are re-used
        self.readers: dict[str, list[str | None]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = list(tensors_in((args, kwargs)))
        if not any(True for _ in tensors_in(out)):
            return out  # asks for a shape or the like
        reader = next((self.norms[id(t)] for t in inputs if id(t) in self.norms), None)
        for tensor in inputs:
            if id(tensor) in self.outputs:
                self.readers[self.outputs[id(tensor)][0]].append(reader)
        written = next((self.weights[id(t)] for t in inputs if id(t) in self.weights), None)
        if written is not None and isinstance(out, Tensor):
            self.outputs[id(out)] = (written, out)
            self.readers.setdefault(written, [])
        return out
