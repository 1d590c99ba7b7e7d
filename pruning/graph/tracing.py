"""Trace a network once into a ChannelGraph, by sending channel labels through its forward pass.

Every position of every parameter axis carries a label. A convolution gives its output channels the
labels of its weight's axis 0 and ties the labels of its input to axis 1; additions tie the labels
of their operands; flatten, concatenation and the like move labels as they move values. Ties are
edges of a graph whose connected components are the units that can be removed. What is unknown ties
its labels to FIXED, so an exotic operation costs its own channels and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pruning.graph.channel_graph import ChannelGraph, Group, Layer
from pruning.graph.labels import FIXED, Key, Record, labels_of, start, tensors_in
from pruning.graph.rules import understood
from pruning.graph.surgery import cut
from pruning.graph.twins import named_tensors, twin

SMALL = 2**35  # weights × pixels of an image, more than there are MACs


def trace(model: nn.Module, input_shape: Sequence[int]) -> ChannelGraph:
    """Trace `model` (left untouched) on one input of shape [C, H, W] and check the result.

    Groups that the network's own code cannot run with fewer channels end up in `fixed`.
    """
    shape = tuple(input_shape)
    # shapes are all it takes, where the code asks for no values; a process that meets the meta
    # device for the first time spends a second on imports, a small network takes less to run
    most = sum(p.numel() for p in model.parameters()) * math.prod(shape[1:])
    device = "cpu" if most < SMALL else "meta"
    try:
        record = _record(model, shape, device)
    except (NotImplementedError, RuntimeError):
        device = "cpu"
        record = _record(model, shape, device)
    graph = _graph(record, shape)
    broken = _groups_that_break(model, graph, device)
    while broken:
        for name in broken:
            record.fix_producer(name, "its code needs this channel count")
        graph = _graph(record, shape)
        broken = _groups_that_break(model, graph, device)
    return graph


def _record(model: nn.Module, shape: tuple[int, ...], device: str) -> Record:
    # a twin runs in the model's place: a forward pass may leave anything behind in its modules
    state = {
        name: torch.empty_like(tensor, device=device)
        if device == "meta"
        else tensor.detach().to(device, copy=True)
        for name, tensor in named_tensors(model).items()
    }
    runs = twin(model, state).eval().requires_grad_(False)
    state = named_tensors(runs)
    record = Record(state, frozenset(name for name, _ in model.named_parameters()))
    images = torch.zeros(2, *shape, device=device)
    start(images)
    with torch.no_grad(), _Recorder(record):
        output = runs(images)
    for tensor in tensors_in(output):
        record.fix(tensor, "output of the network")
    return record


class _Recorder(TorchFunctionMode):
    """Sends labels through every operation that runs under it, into a record."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        operands = list(tensors_in((args, kwargs)))
        inputs = [t for t in operands if labels_of(t) is not None]
        before = [labels_of(t) for t in inputs]
        out = func(*args, **kwargs)
        results = list(tensors_in(out))
        if not results or not (inputs or any(id(t) in self.record.names for t in operands)):
            return out
        name = getattr(func, "__name__", "").strip("_")
        if not understood(self.record, name, out, args, kwargs):
            for tensor, labels in zip(inputs, before, strict=True):
                tensor.labels = labels  # type: ignore[attr-defined]
                self.record.fix(tensor, f"passes through {name or func}")
            for result in results:
                start(result)
        return out


def _groups_that_break(model: nn.Module, graph: ChannelGraph, device: str) -> list[str]:
    """Names of groups without which the forward pass fails (a size written into the code)."""
    narrow = [np.arange(max(1, group.units // 2)) for group in graph.groups]
    if _runs(model, graph, narrow, device):
        return []
    full = graph.full_keep()
    broken = [
        group.name
        for i, group in enumerate(graph.groups)
        if not _runs(model, graph, [*full[:i], narrow[i], *full[i + 1 :]], device)
    ]
    return broken or [group.name for group in graph.groups]


def _runs(model: nn.Module, graph: ChannelGraph, keep: Sequence[np.ndarray], device: str) -> bool:
    try:
        slim = cut(model, graph, tuple(keep)).to(device).eval()
        with torch.no_grad():
            slim(torch.zeros(2, *graph.input_shape, device=device))
    except (RuntimeError, ValueError, IndexError, AssertionError):
        return False
    return True


def _graph(record: Record, input_shape: tuple[int, ...]) -> ChannelGraph:
    ties = [*record.ties, *((a, torch.zeros_like(a)) for a, _ in record.fixes)]
    unit = _components(record, ties)
    axes = {key: unit[labels.numpy()] for key, labels in record.axes.items()}
    groups, flat = _groups(axes, record.layers, unit[FIXED])
    return ChannelGraph(
        input_shape=input_shape,
        groups=groups,
        layers=tuple(record.layers),
        axes={key: flat[units] for key, units in axes.items()},
        shapes=record.shapes,
        parameters=record.parameters,
        fixed=_reasons(record, axes, flat),
    )


def _components(record: Record, ties: Sequence[tuple[Tensor, Tensor]]) -> np.ndarray:
    a = np.concatenate([[FIXED], *(x.numpy() for x, _ in ties)])
    b = np.concatenate([[FIXED], *(y.numpy() for _, y in ties)])
    matrix = coo_matrix((np.ones(len(a), dtype=bool), (a, b)), shape=(record.count, record.count))
    return connected_components(matrix, directed=False)[1]


def _reasons(record: Record, axes: dict[Key, np.ndarray], flat: np.ndarray) -> dict[str, str]:
    local = _components(record, record.ties)
    why: dict[int, str] = {}
    for labels, reason in record.fixes:
        for component in np.unique(local[labels.numpy()]):
            why.setdefault(int(component), reason)
    fixed = {}
    for layer in record.layers:
        stays = flat[axes[layer.weight, 0]] == flat.max()
        if stays.any():
            component = int(local[record.axes[layer.weight, 0][int(stays.argmax())]])
            reason = why.get(component, "tied to channels that must stay")
            part = "" if stays.all() else f"{stays.sum()} of {len(stays)} channels: "
            fixed[layer.name] = part + reason
    return fixed


def _groups(
    axes: dict[Key, np.ndarray], layers: list[Layer], fixed: int
) -> tuple[tuple[Group, ...], np.ndarray]:
    """Units that occur in the same axes, equally often, make a group."""
    occurs: dict[int, list[tuple[int, int]]] = {}
    for i, units in enumerate(axes.values()):
        for unit, times in zip(*np.unique(units, return_counts=True), strict=True):
            occurs.setdefault(int(unit), []).append((i, int(times)))
    occurs.pop(int(fixed), None)
    flat = np.full(max((int(units.max()) for units in axes.values()), default=0) + 1, -1)
    members: dict[tuple[tuple[int, int], ...], list[int]] = {}
    named: dict[tuple[tuple[int, int], ...], tuple[str, int]] = {}
    for layer in layers:
        units, first = np.unique(axes[layer.weight, 0], return_index=True)
        for unit in units[np.argsort(first)]:
            signature = tuple(occurs.get(int(unit), ()))
            if signature and unit not in members.setdefault(signature, []):
                members[signature].append(int(unit))
                times = int((axes[layer.weight, 0] == unit).sum())
                named.setdefault(signature, (layer.name, times))
    groups: list[Group] = []
    taken: dict[str, int] = {}
    count = 0
    for signature, (name, granularity) in named.items():
        units_of = members[signature]
        if len(units_of) < 2:
            continue
        taken[name] = taken.get(name, 0) + 1
        suffix = f"#{taken[name]}" if taken[name] > 1 else ""
        groups.append(Group(name + suffix, len(units_of) * granularity, granularity))
        flat[units_of] = np.arange(count, count + len(units_of))
        count += len(units_of)
    flat[flat < 0] = count
    return tuple(groups), flat
