"""What a forward pass calls: its layers, and who reads what they write."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pruning.data import call
from pruning.graph import ChannelGraph, tensors_in
from pruning.reconstruction.filters import LAYER_CALLS, Filter
from pruning.training import evaluation_mode

See = Callable[[Callable[..., Any], Any, Any, Any], None]


class Calls(TorchFunctionMode):
    """Shows every torch operation: see(function, arguments, keywords, result)."""

    def __init__(self, see: See) -> None:
        super().__init__()
        self.see = see

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.see(func, args, kwargs, out)
        return out


def layers_called(
    model: nn.Module,
    names: Collection[str],
    show: Callable[[str, Tensor, Tensor, Filter], None],
) -> Calls:
    """Shows every use of the given weights: show(name, input, output, filter)."""
    named = {id(p): name for name, p in model.named_parameters() if name in names}

    def see(func: Callable[..., Any], args: Any, kwargs: Any, out: Any) -> None:
        if func in LAYER_CALLS:
            weight = kwargs["weight"] if "weight" in kwargs else args[1]
            if id(weight) in named:
                x = kwargs["input"] if "input" in kwargs else args[0]
                how = LAYER_CALLS[func](*args, **kwargs)
                if how is not None:
                    show(named[id(weight)], x, out, how)

    return Calls(see)


@dataclass(frozen=True)
class Usage:
    """norms: by weight name the BN that alone reads the layer's output; shared: weights that are
    called more than once."""

    norms: dict[str, str]
    shared: frozenset[str]


def norms_after(model: nn.Module, graph: ChannelGraph, inputs: Any) -> dict[str, str]:
    """By weight name the module name of the BN that alone reads that layer's output.

    inputs: a few images. Layers whose output goes elsewhere (too) are left out.
    """
    return usage(model, graph, inputs).norms


def usage(model: nn.Module, graph: ChannelGraph, inputs: Any) -> Usage:
    """How a network uses its layers' outputs, from one forward pass; inputs: a few images."""
    weights = {layer.weight for layer in graph.layers}
    names = {id(p): name for name, p in model.named_parameters() if name in weights}
    norms = {
        id(buffer): name.rpartition(".")[0]
        for name, buffer in model.named_buffers()
        if name.endswith("running_mean")
    }
    outputs: dict[int, tuple[str, Tensor]] = {}  # holds the tensor: ids are re-used
    readers: dict[str, list[str | None]] = {}
    calls: dict[str, int] = {}

    def see(func: Callable[..., Any], args: Any, kwargs: Any, out: Any) -> None:
        given = list(tensors_in((args, kwargs)))
        if not any(True for _ in tensors_in(out)):
            return  # asks for a shape or the like
        reader = next((norms[id(t)] for t in given if id(t) in norms), None)
        for tensor in given:
            if id(tensor) in outputs:
                readers[outputs[id(tensor)][0]].append(reader)
        written = next((names[id(t)] for t in given if id(t) in names), None)
        if written is not None and isinstance(out, Tensor):
            outputs[id(out)] = (written, out)
            readers.setdefault(written, [])
            calls[written] = calls.get(written, 0) + 1

    with evaluation_mode(model), torch.no_grad(), Calls(see):
        call(model, inputs)
    alone = {name: found[0] for name, found in readers.items() if len(found) == 1 and found[0]}
    return Usage(alone, frozenset(name for name, count in calls.items() if count > 1))
