"""Statistics that batch norm needs after its network was changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruning.data import Images, Samples, call, images_in
from pruning.errors import UserError
from pruning.graph import ChannelGraph, Keep
from pruning.training.evaluation import evaluation_mode
from pruning.training.recipe import Recipe

NOISE = 1e-3  # of a variance: a channel that hardly varies on these images has no ratio


@torch.no_grad()
def recalibrate(
    model: nn.Module,
    batches: Iterable[Any] | Samples,
    run: Callable[[nn.Module, Any], object] = call,
) -> None:
    """Measure all BN means and variances anew: reset, then the plain average over the batches.

    batches: (images, labels), or samples, whose inputs are taken; with another `run` than a call,
    whatever run(model, batch) takes. Each batch counts by its images. The average is that of batch
    variances, so hand in shuffled batches. Norms that the model's own `train` holds in evaluation
    mode keep theirs. Modes and momenta are left as they were; without BN nothing is run.
    UserError, and nothing changed, without images. After a cut `carry_over` is the better estimate.
    """
    norms = _trained_norms(model)
    if not norms:
        return
    images = _several(Samples.of(batches).inputs if run is call else cast(Iterable[Any], batches))
    first = next(images)
    momenta = [norm.momentum for norm in norms]
    with evaluation_mode(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.training = True
        try:
            seen = 0
            for batch in chain((first,), images):
                seen += images_in(batch)
                for norm in norms:
                    # momentum=None is this for equal batches, but makes the device wait
                    norm.momentum = images_in(batch) / seen
                run(model, batch)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


def refresh(model: nn.Module, images: Images, recipe: Recipe, seed: int = 0) -> None:
    """Measure BN anew on images as the training of `recipe` sees them: augmented, in its batches.

    Running statistics lag behind weights in training: in a short one, scores with them are those
    of another network. Some 2,000 images do; training may go on afterwards.
    """
    generator = torch.Generator(images.device).manual_seed(seed)
    batch = min(recipe.batch, len(images))
    recalibrate(model, images.batches(batch, augment=recipe.augment, generator=generator))


@torch.no_grad()
def carry_over(
    slim: nn.Module,
    whole: nn.Module,
    graph: ChannelGraph,
    keep: Keep,
    batches: Iterable[Any] | Samples,
    refitted: Mapping[nn.Module, bool] | None = None,
) -> None:
    """Move the BN statistics of `slim` = cut(whole, graph, keep) by what the cut changed.

    The same batches go through both networks, so what these images lack of those that the
    statistics were made of cancels: a network that was not cut keeps its own, bit by bit. Some
    hundred images do. `whole` is left as it was; UserError, and nothing changed, without images.
    refitted: norms of `slim` whose scale and shift were fitted to statistics of these images; those
    behind layers that read something else now (True) are measured, the others stay.
    """
    fitted = refitted or {}
    norms = [(path, norm) for path, norm in _norms(slim) if fitted.get(norm, True)]
    if not norms:
        return
    kept = graph.kept_units(keep)
    images = _several(Samples.of(batches).inputs)
    first = next(images)
    seen: list[_Seen] = []
    with ExitStack() as stack:
        stack.enter_context(evaluation_mode(whole))
        stack.enter_context(evaluation_mode(slim))
        for path, norm in norms:
            name = f"{path}.running_mean" if path else "running_mean"
            rows = graph.kept_positions(name, 0, kept) if (name, 0) in graph.axes else None
            seen.append(_Seen.of(norm, whole.get_submodule(path), rows, norm in fitted))
            stack.callback(seen[-1].unhook)
        for inputs in chain((first,), images):
            call(whole, inputs)
            call(slim, inputs)
    for each in seen:
        each.finish()


@dataclass(frozen=True)
class Spread:
    """Mean and variance of every channel of one batch, [channels]."""

    mean: Tensor
    var: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Spread:
        """x: [N, C, ...]."""
        var, mean = torch.var_mean(x.float(), [d for d in range(x.ndim) if d != 1])
        return cls(mean, var)

    @classmethod
    def over(cls, parts: Sequence[Tensor]) -> Spread:
        """Of equal parts of one batch."""
        each = [cls.of(x) for x in parts]
        mean = torch.stack([part.mean for part in each]).double()
        var = torch.stack([part.var for part in each]).double()
        total = var.mean(0) + mean.var(0, correction=0)
        return cls(mean.mean(0).float(), total.float())

    def rows(self, index: Tensor | None) -> Spread:
        return self if index is None else Spread(self.mean[index], self.var[index])


def moved(base: Spread, before: Spread, after: Spread) -> Spread:
    """`base` changed as a batch was: from `before` in the whole network to `after` in the cut one.

    Where the variance stayed, base.var / before.var and the distance base.mean − before.mean (in
    deviations) hold for the cut network as well. The more it changed, the less the batch's whole
    channel says of the cut one: then they are taken by min(ratio, 1 / ratio) only.
    """
    floor = NOISE * base.var + torch.finfo(base.var.dtype).tiny
    ratio = (after.var + floor) / (before.var + floor)
    share = torch.minimum(ratio, 1 / ratio)
    mean = after.mean + share * (base.mean - before.mean) * ratio.sqrt()
    var = (after.var + floor) * ((base.var + floor) / (before.var + floor)) ** share - floor
    same = (after.mean == before.mean) & (after.var == before.var)
    keep = same | ~(var.isfinite() & mean.isfinite())
    return Spread(torch.where(keep, base.mean, mean), torch.where(keep, base.var, var.clamp_min(0)))


class _Seen:
    """Watches one BN of both networks; the cut one normalises each batch by its moved statistics.

    So what lies behind it sees already what it will see in the end.
    """

    def __init__(self, norm: Any, base: Spread, refitted: bool) -> None:
        self.norm, self.base, self.refitted = norm, base, refitted
        self.before: list[Spread] = []
        self.mean: Spread | None = None
        self.images = 0
        self.hooks: list[Any] = []

    @classmethod
    def of(cls, norm: nn.Module, twin: Any, rows: Any, refitted: bool) -> _Seen:
        index = None
        if rows is not None:
            index = torch.from_numpy(rows).to(twin.running_mean.device)
        base = Spread(twin.running_mean, twin.running_var).rows(index)
        made = cls(norm, base, refitted)

        def whole(_: nn.Module, args: Any) -> None:
            made.before.append(Spread.of(args[0]).rows(index))

        def slim(_: nn.Module, args: Any) -> None:
            made.add(Spread.of(args[0]), len(args[0]))

        made.hooks = [twin.register_forward_pre_hook(whole), norm.register_forward_pre_hook(slim)]
        return made

    def add(self, after: Spread, images: int) -> None:
        # a module that is called twice meets its calls in one order
        before = self.before.pop(0)
        new = after if self.refitted else moved(self.base, before, after)
        self._write(new)
        self.images += images
        share = images / self.images
        if self.mean is None:
            self.mean = new
        else:  # by differences: what never moved stays to the last bit
            mean = self.mean
            self.mean = Spread(
                mean.mean + (new.mean - mean.mean) * share,
                mean.var + (new.var - mean.var) * share,
            )

    def finish(self) -> None:
        if self.mean is not None:
            self._write(self.mean)

    def unhook(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def _write(self, new: Spread) -> None:
        self.norm.running_mean.copy_(new.mean)
        self.norm.running_var.copy_(new.var)


def _norms(model: nn.Module) -> list[tuple[str, Any]]:
    return [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]


def _trained_norms(model: nn.Module) -> list[Any]:
    """Norms that a training measures: not those that a `train` of the model's own holds still."""
    norms = [module for _, module in _norms(model)]
    with evaluation_mode(model):
        model.train()
        return [norm for norm in norms if norm.training]


def _several(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches without single images, which have no variance where maps are 1x1."""
    found = 0
    for batch in batches:
        images = images_in(batch)
        if images and (images > 1 or not found):
            found += 1
            yield batch
    if not found:
        raise UserError("no images for batch norm; hand in batches that can be walked again")
