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
from pruning.graph.channel_graph import ChannelGraph
from pruning.graph.tracing import blame
from pruning.graph.tracing.benches import Benches
from pruning.graph.tracing.grouping import Grouping, group
from pruning.graph.tracing.inputs import Inputs, inputs_of
from pruning.graph.tracing.record import Record
from pruning.graph.tracing.recorder import record_of
from pruning.graph.tracing.verification import Fault, halved, irregular
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
    return Benches(model, inputs).fault(Grouping(graph, unit_of), record, irregular(graph, seed))


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
    bench = Benches(model, inputs)
    failures: Counter[tuple[str, int]] = Counter()
    for _ in range(ROUNDS):
        grouping = group(record, inputs.shape)
        if not grouping.graph.groups:
            break
        fault = bench.fault(grouping, record, irregular(grouping.graph, seed))
        if fault is None and grouping.graph.attributes:
            # numbers that differed may be equal now: if self.width != self.width_out
            fault = bench.fault(grouping, record, halved(grouping.graph))
        if fault is None:
            break
        for index in blame.guilty(grouping, record, fault, failures, bench):
            record.fix_labels(grouping.labels_at(index), fault.why)
    return grouping.graph
