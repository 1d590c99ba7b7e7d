"""From a trained network to a slim one without a gradient step: allocate, select, cut, repair."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning.data import Samples, Workspace, arguments, few, first, moved
from pruning.errors import MemoryBudgetError, UserError
from pruning.graph import ChannelGraph, Cost, Keep, cut, lattice, plain, trace
from pruning.methods import Method, Problem, State, get
from pruning.models import (
    Argument,
    ModelInfo,
    accepting,
    arguments_of,
    called,
    registry,
    save,
    settle,
)
from pruning.reconstruction import (
    compensate_layers,
    error_feedback,
    input_moments,
    norms_after,
)
from pruning.training import carry_over, evaluation_mode

REPAIRS = ("auto", "none", "compensate", "feedback")


@dataclass(frozen=True)
class Slimmed:
    """A slim network, and what it is.

    widths: int64 [groups], in the order of `graph`, the whole network's; macs of one image, params;
    pruned: its score right after the cut, if asked for; times in seconds; inputs: what it is called
    with, where that is not one tensor of floats.
    """

    model: nn.Module
    widths: np.ndarray
    pruned: float | None
    cut_s: float
    repair_s: float
    graph: ChannelGraph
    inputs: tuple[Argument, ...] = ()

    @property
    def widths_by_name(self) -> dict[str, int]:
        """Channels kept of each group, by the group's name."""
        names = (group.name for group in self.graph.groups)
        return dict(zip(names, self.widths.tolist(), strict=True))

    @property
    def macs(self) -> int:
        """MACs of convolutions and linear layers for one image."""
        return int(Cost(self.graph).macs(self.widths))

    @property
    def base_macs(self) -> int:
        """The whole network's."""
        return Cost(self.graph).base_macs

    @property
    def params(self) -> int:
        """Parameters."""
        return int(Cost(self.graph).params(self.widths))

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        """Write one safetensors file that `pruning.load` reads.

        `mean` and `std` tell its reader how pixels of 0 to 1 are to be normalised, a number for
        each channel (default: not at all). A network that `resolve` made is built again by its
        name; another is handed in whole, `load(path, base=network)`.
        """
        shape = self.graph.input_shape
        name, args = getattr(self.model, "origin", (registry.handed_in(self.model), {}))
        first = next(self.model.parameters())
        with torch.no_grad(), evaluation_mode(self.model):
            given, named = called(self.inputs, [each.zeros(1) for each in self.inputs])
            given = given if self.inputs else [first.new_zeros(1, *shape)]
            outputs = self.model(*moved(given, first.device), **moved(named, first.device))
        info = ModelInfo(
            model=name,
            args=args,
            input_shape=shape,
            classes=outputs.shape[-1] if isinstance(outputs, Tensor) else 0,
            mean=tuple(mean or [0.0] * shape[0]),
            std=tuple(std or [1.0] * shape[0]),
            widths=self.widths_by_name,
            digest=self.graph.digest(),
            inputs=self.inputs,
        )
        save(self.model, path, info)


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
) -> Slimmed:
    """Cut `model` (left as it is) to `widths` as `method` selects, repair, recalibrate BN.

    repair: compensate (least squares on the whole network's inputs, CaP's way), feedback (layer by
    layer, undoing what earlier cuts got wrong), none (what the method does by itself), or auto (the
    method's own choice of these; where its code cannot be followed, each layer alone is refitted).
    """
    _check_repair(repair)
    graph, began = problem.graph, _now(model)
    asked = np.asarray(widths, dtype=np.int64)
    keep = method.select(state, problem, asked, **(scalars or {}))
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
    return Slimmed(small, graph.kept_widths(keep), pruned, cut_s, repair_s, graph)


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
