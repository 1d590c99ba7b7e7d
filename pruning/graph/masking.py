"""Remove units without cutting: zeros in place, given back afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from pruning.errors import UserError
from pruning.graph.channel_graph import ChannelGraph
from pruning.graph.opening import opened
from pruning.graph.twins import named_tensors


@contextmanager
def masked(
    model: nn.Module,
    graph: ChannelGraph,
    units: np.ndarray,
    origin: Mapping[str, Tensor] | None = None,
) -> Iterator[None]:
    """`model` with these flat units (int64) at zero, in place; its tensors are restored at exit.

    Zeroed are the filters that write a unit, its BN scale, shift and mean, and the slices that
    read it; so the outputs are those of the cut network whatever the activation. origin: other
    tensors with the values that some of the model's have; only the rest is saved meanwhile.
    """
    origin = origin or {}
    gone = np.zeros(graph.units + 1, dtype=bool)
    gone[units] = True
    tensors = named_tensors(opened(model))
    if graph.layers and graph.layers[0].weight not in tensors:
        raise UserError(
            f"the network has no {graph.layers[0].weight}, which the graph names; "
            "hand in pruning.plain(model) where weights are computed"
        )
    saved: list[tuple[Tensor, int, Tensor, Tensor]] = []
    changed: set[str] = set()
    try:
        for (name, axis), owner in graph.axes.items():
            positions = np.flatnonzero(gone[owner])
            # a variance of zero would only make the normalised zero less safe
            if len(positions) and name in tensors and not name.endswith("running_var"):
                tensor = tensors[name].detach()
                index = torch.from_numpy(positions).to(tensor.device)
                if name in origin:
                    changed.add(name)
                else:
                    saved.append((tensor, axis, index, tensor.index_select(axis, index)))
                tensor.index_fill_(axis, index, 0)
        yield
    finally:
        for tensor, axis, index, values in reversed(saved):
            tensor.index_copy_(axis, index, values)
        for name in changed:
            tensors[name].detach().copy_(origin[name])
