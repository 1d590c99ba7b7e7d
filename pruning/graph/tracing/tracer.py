"""Trace a network once into a ChannelGraph, by sending channel labels through its forward pass.

Every position of every parameter axis carries a label. A convolution gives its output channels the
labels of its weight's axis 0 and ties the labels of its input to axis 1; additions tie the labels
of their operands; flatten, concatenation and the like move labels as they move values. Ties are
edges of a graph whose connected components are the units that can be removed. What is unknown ties
its labels to FIXED, so an exotic operation costs its own channels and nothing else.

What comes out is checked: a network cut to irregular widths has to compute what the whole one does
when nobody hears the removed channels. What does not is fixed, and named.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from pruning.errors import UserError
from pruning.graph import opening
from pruning.graph.channel_graph import ChannelGraph, Keep
from pruning.graph.tracing.grouping import Grouping, group
from pruning.graph.tracing.inputs import SMALL_SIDE, Inputs, inputs_of
from pruning.graph.tracing.record import Place, Record
from pruning.graph.tracing.recorder import record_of
from pruning.graph.tracing.verification import Bench, Fault, UnsuitableError, irregular, lively
from pruning.graph.wishes import INPUT, chosen, patterns_of

SMALL = 2**35  # weights × pixels of an image, more than there are MACs
ROUNDS = 200


def trace(
    model: nn.Module, example: Any, *, keep: str | Iterable[str] = (), seed: int = 0
) -> ChannelGraph:
    """Trace `model` (left untouched) and check the result.

    example: the shape of one input [C, H, W], or a batch as the network is called: a tensor, a
    tuple of arguments, a dictionary of keyword arguments. Groups that the network's own code cannot
    run with fewer channels, or not rightly, end up in `fixed`. UserError where it cannot be run.
    keep: layers, groups or modules whose output channels all stay, by glob patterns in a list or
    with commas between: "stem.*,layer4"; "head:in" for what the layer reads, too.
    """
    model = opening.plain(opening.opened(model))
    inputs = inputs_of(model, example)
    record = _record(model, inputs)
    _keep(record, group(record, inputs.shape), patterns_of(keep))
    graph = _verified(model, inputs, record, seed)
    if graph.uncounted:
        warnings.warn(
            f"MACs of {', '.join(graph.uncounted)} are not counted; costs are too low by them",
            stacklevel=2,
        )
    return graph


def check(model: nn.Module, graph: ChannelGraph, example: Any, seed: int = 0) -> Fault | None:
    """Compare a network cut to irregular widths with the whole one; None if they agree."""
    model = opening.plain(opening.opened(model))
    inputs = inputs_of(model, example)
    record = _record(model, inputs)
    unit_of = np.full(record.count, graph.units)
    for key, labels in record.axes.items():
        unit_of[labels.numpy()] = graph.axes[key]
    return _Benches(model, inputs).fault(Grouping(graph, unit_of), record, irregular(graph, seed))


def _record(model: nn.Module, inputs: Inputs) -> Record:
    # shapes are all it takes, where the code asks for no values; a process that meets the meta
    # device for the first time spends a second on imports, a small network takes less to run
    most = sum(p.numel() for p in model.parameters()) * math.prod(inputs.shape[1:])
    own = next((p.device for p in model.parameters()), torch.device("cpu"))
    if most >= SMALL:
        try:
            return record_of(model, inputs, "meta")
        except UserError:
            raise
        except Exception:  # code that asks for values has them below
            pass
    try:
        return record_of(model, inputs, own)
    except UserError:
        raise
    except Exception as error:  # the network's code may raise anything
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise UserError(
            f"the network does not run on inputs of shape {list(inputs.shape)} ({what}); give "
            "example inputs as it is called: a tensor, a tuple of arguments or a dictionary"
        ) from error


def _keep(record: Record, grouping: Grouping, patterns: list[str]) -> None:
    """Fix the channels that the caller wants to stay."""
    graph = grouping.graph
    layers = {layer.name: layer for layer in graph.layers}
    names = list(dict.fromkeys([*layers, *graph.index]))
    for pattern, found in chosen(patterns, names, "keep").items():
        for name in found:
            if name in graph.index:
                record.fix_labels(grouping.labels_at(graph.index[name]), f"kept by {pattern}")
            if name in layers:
                layer = layers[name]
                axes = (layer.written, layer.read) if pattern.endswith(INPUT) else (layer.written,)
                for axis in axes:
                    labels = record.axes[layer.weight, axis]
                    record.fix_labels(labels, f"kept by {pattern}")


def _verified(model: nn.Module, inputs: Inputs, record: Record, seed: int) -> ChannelGraph:
    bench = _Benches(model, inputs)
    failures: Counter[tuple[str, int]] = Counter()
    for _ in range(ROUNDS):
        grouping = group(record, inputs.shape)
        if not grouping.graph.groups:
            break
        fault = bench.fault(grouping, record, irregular(grouping.graph, seed))
        if fault is None:
            break
        guilty = _blamed(grouping, record, fault, failures) or _bisected(grouping, record, bench)
        for index in guilty:
            record.fix_labels(grouping.labels_at(index), fault.why)
    return grouping.graph


class _Benches:
    """The cheapest bench that the network runs on: small images before whole ones."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self.model, self.inputs = model, inputs
        own = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        half = own not in (torch.float32, torch.float64)
        small = len(inputs.shape) == 3 and min(inputs.shape[1:]) > SMALL_SIDE and not inputs.given
        sides = [SMALL_SIDE, None] if small else [None]
        kinds = [torch.float32, own] if half else [own]
        self.choices = [(kind, side) for kind in kinds for side in sides]
        self.whole: dict[torch.dtype, nn.Module] = {}
        self.benches: dict[tuple[torch.dtype, int | None], Bench] = {}

    def bench(self, kind: torch.dtype, side: int | None) -> Bench:
        if (kind, side) not in self.benches:
            if kind not in self.whole:
                self.whole[kind] = lively(self.model, kind)
            noise = self.inputs.random(kind, side)
            self.benches[kind, side] = Bench(self.whole[kind], noise, kind)
        return self.benches[kind, side]

    def fault(self, grouping: Grouping, record: Record, keep: Keep) -> Fault | None:
        while True:
            kind, side = self.choices[0]
            try:
                found = self.bench(kind, side).fault(grouping.graph, keep, _norms(grouping, record))
            except UnsuitableError:
                if len(self.choices) == 1:
                    raise
                self.choices.pop(0)
                continue
            if found is None or found.error > 0.05 or kind != torch.float32:
                return found
            return found if self._wrong_in_double(grouping, record, keep, side) else None

    def _wrong_in_double(
        self, grouping: Grouping, record: Record, keep: Keep, side: int | None
    ) -> bool:
        """Whether a small difference is one in double precision, too; True where it has none."""
        bench = self.bench(torch.float64, side)
        try:
            return bench.fault(grouping.graph, keep, _norms(grouping, record)) is not None
        except UnsuitableError:
            return True


def _norms(grouping: Grouping, record: Record) -> dict[Place, tuple[int, np.ndarray]]:
    return {
        place: (dim, grouping.unit_of[labels.numpy()])
        for place, (dim, labels) in record.mixing.items()
    }


def _blamed(
    grouping: Grouping, record: Record, fault: Fault, failures: Counter[tuple[str, int]]
) -> list[int]:
    """The groups that met where a fault showed; after the second one at a line, all that did."""
    graph = grouping.graph
    if fault.weight is not None:
        layer = next(layer for layer in graph.layers if layer.weight == fault.weight)
        for axis in (layer.read, layer.written):
            labels = record.axes[layer.weight, axis]
            if found := grouping.groups_at(labels):
                return found
        return []
    if fault.place is None:
        return []
    line = fault.place[:2]
    failures[line] += 1
    places = [fault.place]
    if failures[line] > 1:
        places = [place for place in record.seen if place[:2] == line]
    met = [labels.reshape(-1) for place in places for labels in record.seen.get(place, ())]
    return grouping.groups_at(torch.cat(met)) if met else []


def _bisected(grouping: Grouping, record: Record, benches: _Benches) -> list[int]:
    """The groups without which all others can be cut together, found by halving."""
    graph = grouping.graph
    narrow, full = irregular(graph), graph.full_keep()
    good: set[int] = set()
    guilty: list[int] = []
    waiting = [list(range(len(graph.groups)))]
    while waiting:
        block = waiting.pop()
        tried = good | set(block)
        keep = tuple(narrow[i] if i in tried else full[i] for i in range(len(graph.groups)))
        if benches.fault(grouping, record, keep) is None:
            good = tried
        elif len(block) == 1:
            guilty += block
        else:
            half = len(block) // 2
            waiting += [block[half:], block[:half]]
    return guilty
