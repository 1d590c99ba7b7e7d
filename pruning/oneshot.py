"""From a trained network to a slim one without a gradient step: allocate, select, cut, repair."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning.data import Samples, Workspace, arguments, few, first
from pruning.errors import MemoryBudgetError, UserError
from pruning.graph import (
    ChannelGraph,
    Keep,
    cut,
    lattice,
    named_tensors,
    narrowed,
    nested,
    plain,
    trace,
)
from pruning.methods import Method, Problem, State, get
from pruning.models import accepting, arguments_of, settle
from pruning.reconstruction import (
    compensate_layers,
    error_feedback,
    input_moments,
    norms_after,
)
from pruning.slimmed import Slimmed
from pruning.training import carry_over

REPAIRS = ("auto", "none", "compensate", "feedback")


@dataclass(frozen=True)
class Parent:
    """A network that was cut from the whole one and trained since; widths: int [groups]."""

    model: nn.Module
    widths: Sequence[int] | np.ndarray


def prune(
    model: nn.Module,
    batches: Iterable[Any] | Samples,
    *,
    macs: float = 0.5,
    method: str = "gain-curve",
    repair: str = "auto",
    divisor: int | None = None,
    min_ratio: float = 0.1,
    keep: str | Iterable[str] = (),
    min_width: Mapping[str, float] | None = None,
    scalars: Mapping[str, float] | None = None,
    memory_gb: float | None = None,
) -> Slimmed:
    """One-shot: a copy of `model` with about `macs` (a share, or an absolute number) of its MACs.

    `batches` gives (images [B, C, H, W], labels [B]) and can be walked again; a thousand images do.
    For a network that is no classifier: `pruning.Samples(inputs, batches, loss)`, what it is called
    with, batch by batch, and, for methods that need one, batches with their loss(model, batch).
    keep: layers, groups or modules that stay whole, by glob patterns ("stem.*,layer4"); min_width:
    by such patterns the share or number of channels that stays at least. memory_gb: what the
    gain curves and the repair may take over the networks' own and the images'; what does not fit
    waits in a file, to the same result (None: no limit). Weights that the network computes
    (weight_norm and the like) are plain ones in the copy.
    """
    chosen, scalars = get(method), scalars or {}
    _check(chosen, macs, repair, scalars)
    if not isinstance(batches, Samples) and iter(batches) is batches:
        batches = list(batches)
    samples = Samples.of(batches)
    if memory_gb is not None:
        samples = replace(samples, workspace=Workspace(memory_gb))
    images = next(iter(samples.inputs), None)
    if images is None:
        raise UserError("no images to prune with; hand in at least one batch of (images, labels)")
    model = plain(model)
    one = isinstance(images, Tensor)
    graph = trace(model, images.shape[1:] if one else _example(images), keep=keep)
    problem = Problem(graph, lattice(graph, divisor, min_ratio, min_width))
    target = macs * problem.cost.base_macs if macs <= 1 else macs
    least = problem.cost.macs(problem.lattice.low)
    if target < least:
        raise UserError(f"{target:.4g} MACs cannot be reached, at least {least:.4g}; raise macs")
    with accepting(model, images) if one else nullcontext():
        state = chosen.prepare(model, graph, samples)
        widths = chosen.allocate(state, problem, target, **scalars)
        found = slim(model, problem, chosen, state, widths, samples, repair=repair, scalars=scalars)
    return replace(found, inputs=arguments_of(images))


def slim(
    model: nn.Module,
    problem: Problem,
    method: Method,
    state: State,
    widths: Sequence[int] | np.ndarray,
    batches: Iterable[Any] | Samples,
    *,
    repair: str = "auto",
    score: Callable[[nn.Module], float] | None = None,
    scalars: Mapping[str, float] | None = None,
    parent: Parent | None = None,
) -> Slimmed:
    """Cut `model` (left as it is) to `widths` as `method` selects, repair, recalibrate BN.

    repair: compensate (least squares on the whole network's inputs, CaP's way), feedback (layer by
    layer, undoing what earlier cuts got wrong), none (what the method does by itself), or auto (the
    method's own choice of these; where its code cannot be followed, each layer alone is refitted).
    parent: cut further in place of `model`, which it was cut from by the same method and scalars:
    its units, those of higher scores, are among them the ones that stay.
    """
    _check_repair(repair)
    graph, began = problem.graph, _now(model)

    def selected(wanted: Sequence[int] | np.ndarray) -> Keep:
        asked = np.asarray(wanted, dtype=np.int64)
        return method.select(state, problem, asked, **(scalars or {}))

    keep = selected(widths)
    achieved = graph.kept_widths(keep)
    if parent is not None:
        there = selected(parent.widths)
        model, keep = parent.model, nested(there, keep)
        graph = narrowed(graph, there, named_tensors(model).keys())
    small = cut(model, graph, keep)
    settle(small, graph.input_shape)
    cut_s = _now(small) - began
    pruned = score(small) if score else None
    began = _now(small)
    how = method.own_repair if repair == "auto" else repair
    if how == "none":
        method.repair(small, model, graph, state, keep)
        carry_over(small, model, graph, keep, batches)
    else:  # leaves statistics that fit
        try:
            error_feedback.repair(small, model, graph, keep, batches, feedback=how == "feedback")
        except UserError as error:
            if repair != "auto" or isinstance(error, MemoryBudgetError):
                raise
            warnings.warn(f"layers are refitted one by one: {error}", stacklevel=2)
            small = settle(cut(model, graph, keep), graph.input_shape)
            _one_by_one(small, model, graph, keep, Samples.of(batches))
    repair_s = _now(small) - began
    return Slimmed(small, achieved, pruned, cut_s, repair_s, problem.graph)


def _one_by_one(
    small: nn.Module, model: nn.Module, graph: ChannelGraph, keep: Keep, samples: Samples
) -> None:
    """What is left of the repair where the network's code cannot be followed: CaP's."""
    norms = norms_after(model, graph, few(first(samples.inputs)))
    compensate_layers(small, model, graph, keep, input_moments(model, graph, samples), norms)
    carry_over(small, model, graph, keep, samples)


def _example(inputs: Any) -> Any:
    """Inputs as `trace` takes them: what is no tuple and no dictionary is one argument."""
    args, kwargs = arguments(inputs)
    return kwargs or args


def _check(method: Method, macs: float, repair: str, scalars: Mapping[str, float]) -> None:
    """UserError for whatever can be refused before anything is measured."""
    _check_repair(repair)
    number = isinstance(macs, int | float) and not isinstance(macs, bool)
    if not number or not 0 < macs < math.inf:
        raise UserError(f"macs is {macs!r}; give a share as in 0.5, or a number of MACs")
    for name, value in scalars.items():
        if name not in method.scalars:
            known = ", ".join(method.scalars) or "none"
            raise UserError(f"{method.name} has no scalar {name!r}; it takes: {known}")
        low, high = method.scalars[name].low, method.scalars[name].high
        if not isinstance(value, int | float) or not low <= value <= high:
            raise UserError(f"{name} is {value!r}; {method.name} takes {low:g} to {high:g}")


def _check_repair(repair: str) -> None:
    if repair not in REPAIRS:
        raise UserError(f"no repair {repair!r}; choose one of {', '.join(REPAIRS)}")


def _now(model: nn.Module) -> float:
    """Time in seconds, read once the model's device has done what it was told."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
