"""Compare a network that was cut with the whole one in which nobody hears the removed channels.

Both run on noise, and every layer's output is compared, so that an error is seen where it is made.
Weights that are all alike (scales of one, shifts and last layers of zero) would hide errors: the
twins get random ones in their place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning.graph.channel_graph import ChannelGraph, Keep
from pruning.graph.masking import masked
from pruning.graph.surgery import cut
from pruning.graph.tracing.inputs import Inputs, each
from pruning.graph.tracing.labels import tensors_in
from pruning.graph.tracing.record import Place
from pruning.graph.tracing.watching import Shapes, Watch
from pruning.graph.twins import named_tensors, twin

OUTPUTS = ("", 0)
BREATH = 1e-2  # of the tolerance
NOWHERE: Place = ("", 0, 0)
CODE = "its code needs this channel count"
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
    """A network with lively weights, and noise to run it on.

    whole, origin: what `lively` makes of the model in this precision.
    """

    def __init__(
        self,
        whole: nn.Module,
        origin: Mapping[str, Tensor],
        inputs: Inputs,
        dtype: torch.dtype,
    ) -> None:
        self.whole, self.origin, self.inputs = whole, origin, inputs
        self.tolerance = TOLERANCE.get(dtype, 0.05)
        self.runs = False
        self.shapes: nn.Module | None = None

    def fault(
        self, graph: ChannelGraph, keep: Keep, norms: Mapping[Place, tuple[int, np.ndarray]]
    ) -> Fault | None:
        """What goes wrong where only `keep` stays; None if all layers and outputs agree.

        norms: calls that normalise over channels, as (dimension, flat units along it): the whole
        network normalises over those that stay, too. UnsuitableError where it does not run.
        """
        kept = graph.kept_units(keep)
        whole = Watch(self.whole, graph, kept, norms)
        theirs = None if self.runs else self._masked(whole, graph, kept)
        small = cut(self.whole, graph, keep)
        slim = Watch(small, graph, None, {})
        try:
            ours = self._run(small, slim)
        except Exception as error:
            del error
            return Fault(CODE, slim.place)
        if theirs is None:  # after the other, which is cheaper and may have failed
            theirs = self._masked(whole, graph, kept)
        fault = self._compare(slim, whole, set()) or self._outputs(ours, theirs)
        if fault is None or math.isinf(fault.error):
            return fault
        blown = Watch(small, graph, None, {})  # of the two the cheaper one
        moved = self._run(small, blown, self.tolerance * BREATH)
        shaky = self._unstable(slim, blown, ours, moved)
        if fault.weight is None and OUTPUTS not in shaky:  # the whole one may be it, too
            calm, blown = (Watch(self.whole, graph, None, {}) for _ in range(2))
            first = self._run(self.whole, calm)
            moved = self._run(self.whole, blown, self.tolerance * BREATH / 10)
            shaky |= self._unstable(calm, blown, first, moved) & {OUTPUTS}
        fault = self._compare(slim, whole, shaky)
        return fault or (None if OUTPUTS in shaky else self._outputs(ours, theirs))

    def _masked(self, watch: Watch, graph: ChannelGraph, kept: np.ndarray) -> Any:
        with masked(self.whole, graph, np.flatnonzero(~kept[:-1]), self.origin):
            try:
                found = self._run(self.whole, watch)
            except Exception as error:
                raise UnsuitableError(str(error)) from error
        self.runs = True
        return found

    def stops_at(self, graph: ChannelGraph, keep: Keep) -> Place | None:
        """Where the network's code fails if only `keep` stays; on shapes, where that can be."""
        if self.shapes is None:
            tensors = named_tensors(self.whole)
            empty = {name: torch.empty_like(t, device="meta") for name, t in tensors.items()}
            self.shapes = twin(self.whole, empty)
            if self._stop(self.shapes) is not None:
                self.shapes = self.whole
        return self._stop(cut(self.shapes, graph, keep))

    def _unstable(self, calm: Watch, blown: Watch, theirs: Any, moved: Any) -> set[tuple[str, int]]:
        """Calls of layers that a breath of noise changes as much as a fault; OUTPUTS for those.

        A detector sorts boxes by their scores, and layers behind look at other boxes then.
        """
        shaky = {
            key
            for key, out in calm.outputs.items()
            if key not in blown.outputs
            or blown.outputs[key].shape != out.shape
            or _difference(blown.outputs[key], out) > self.tolerance
        }
        shapes = [[t.shape for t in tensors_in(value)] for value in (moved, theirs)]
        other = shapes[0] != shapes[1] or self._outputs(moved, theirs) is not None
        return shaky | ({OUTPUTS} if other else set())

    def _stop(self, net: nn.Module) -> Place | None:
        args, kwargs = self.inputs.on(next(iter(named_tensors(net).values())).device)
        watch = Shapes()
        try:
            with torch.no_grad(), watch:
                net(*args, **kwargs)
        except Exception:  # the network's code may raise anything
            return watch.place or NOWHERE
        return None

    def _run(self, model: nn.Module, watch: Watch, breath: float = 0) -> Any:
        device = next((t.device for t in model.parameters()), torch.device("cpu"))
        args, kwargs = self.inputs.on(device)
        if breath:
            args, kwargs = each(args, _breath(breath)), each(kwargs, _breath(breath))
        with torch.no_grad(), watch:
            return model(*args, **kwargs)

    def _compare(self, slim: Watch, whole: Watch, but: set[tuple[str, int]]) -> Fault | None:
        for (weight, call), theirs in whole.outputs.items():
            ours = slim.outputs.get((weight, call)) if (weight, call) not in but else None
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


def lively(model: nn.Module, dtype: torch.dtype | None) -> tuple[nn.Module, dict[str, Tensor]]:
    """A twin in evaluation mode and of this precision, none of whose tensors is all one value.

    Beside it those of the model's tensors, by name, whose values the twin has.
    """
    generator = torch.Generator().manual_seed(0)
    tensors = {name: tensor.detach() for name, tensor in named_tensors(model).items()}
    there: dict[str, Tensor] = {}
    fresh: set[str] = set()
    for name, tensor in tensors.items():
        floating = tensor.is_floating_point()
        value = tensor.to(dtype if floating and dtype else tensor.dtype, copy=True)
        if floating and _alike(value):
            noise = torch.rand(value.shape, generator=generator).to(value)
            fan = max(1, value[0].numel()) if value.ndim > 1 else 1
            positive = float(value.reshape(-1)[0]) > 0
            value = 0.5 + noise if positive and value.ndim < 2 else (noise - 0.5) * 2 / fan**0.5
            fresh.add(name)
        there[name] = value
    same = {name: tensor for name, tensor in tensors.items() if name not in fresh}
    return twin(model, there).eval().requires_grad_(False), same


def _breath(size: float) -> Callable[[Tensor], Tensor]:
    def blown(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return tensor * (1 + size * torch.linspace(-1, 1, tensor.shape[-1]).to(tensor))

    return blown


def _alike(value: Tensor) -> bool:
    """Whether all values are one; a look at the first few spares most tensors the rest."""
    flat = value.reshape(-1)
    return len(flat) > 1 and all(
        bool((part == flat[0]).all()) for part in (flat[:16], flat[16:]) if len(part)
    )


def irregular(graph: ChannelGraph, seed: int = 0) -> Keep:
    """About half of every group's units, an odd number of no regular pattern, the first not."""
    random = np.random.default_rng(seed)
    keep = []
    for group in graph.groups:
        count = max(1, (group.units // 2) | 1) if group.units > 2 else 1
        keep.append(np.sort(random.permutation(group.units)[:count]))
    return tuple(keep)


def halved(graph: ChannelGraph) -> Keep:
    """The first half of every group's units: widths that are what others' were."""
    return tuple(np.arange(max(1, group.units // 2)) for group in graph.groups)


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest value; NaN and infinities of `theirs` aside."""
    if not theirs.numel():
        return 0.0
    quick = float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12))
    if math.isfinite(quick):
        return quick
    good = theirs.isfinite()
    if not bool(good.any()):
        return 0.0
    scale = theirs[good].abs().max().clamp_min(1e-12)
    worst = (ours[good] - theirs[good]).abs().max() / scale
    return float(worst) if bool(worst.isfinite()) else math.inf
