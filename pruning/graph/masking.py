"""Remove units without cutting: zeros in place, given back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from pruning.graph.channel_graph import ChannelGraph


@contextmanager
def masked(model: nn.Module, graph: ChannelGraph, units: np.ndarray) -> Iterator[None]:
    """`model` with these flat units (int64) at zero, in place; its tensors are restored at exit.

    Zeroed are the filters that write a unit, its BN scale, shift and mean, and the slices that
    read it; so the outputs are those of the cut network whatever the activation.
    """
    gone = np.zeros(graph.units + 1, dtype=bool)
    gone[units] = True
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    saved: list[tuple[Tensor, int, Tensor, Tensor]] = []
    try:
        for (name, axis), owner in graph.axes.items():
            positions = np.flatnonzero(gone[owner])
            # a variance of zero would only make the normalised zero less safe
            if len(positions) and name in tensors and not name.endswith("running_var"):
                tensor = tensors[name].detach()
                index = torch.from_numpy(positions).to(tensor.device)
                saved.append((tensor, axis, index, tensor.index_select(axis, index)))
                tensor.index_fill_(axis, index, 0)
        yield
    finally:
        for tensor, axis, index, values in reversed(saved):
            tensor.index_copy_(axis, index, values)
