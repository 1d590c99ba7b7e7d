"""A task of anyone's on a device: its own loss, batches and metric, each call of it watched."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from pruning.data import Samples, arguments, call, images_in, moved, some
from pruning.errors import UserError
from pruning.graph import tensors_in
from pruning.models import arguments_of, settle
from pruning.training import (
    EpochResult,
    Recipe,
    evaluation_mode,
    fit,
    loss_mode,
    map_loss,
    mean_task_loss,
    recalibrate,
    recorded,
)
from search.tasks.task import Task, TaskError
from search.tasks.workload import CALIBRATION_BATCH, About, Workload

INPUTS = 2048  # at most, for repair and methods
LABELLED = 512  # samples on which methods measure the loss
REFRESHED = 1024  # samples of training, on which batch norm is measured for a score


class OwnWorkload(Workload):
    """A `Task` on a device."""

    def __init__(
        self, task: Task, name: str, args: Any, device: str, seed: int, maps: str = "none"
    ) -> None:
        """maps: as a recipe's distill_maps, to be checked before anything is measured."""
        self.task, self.name, self.device, self.seed = task, name, device, seed
        self.maps = maps
        self.metric = task.metric
        self.notes = tuple(getattr(task, "notes", ()))
        self.training = bool(getattr(task, "training_loss", False))
        with self._said("example"):
            self._example = task.example()
        shape = _shape(self._example)
        channels = shape[:1] if len(shape) == 3 else ()
        self.about = About(
            model=getattr(task, "origin", (name, args))[0],
            args=dict(getattr(task, "origin", (name, args))[1]),
            shape=shape,
            mean=tuple(getattr(task, "mean", None) or [0.0] * sum(channels)),
            std=tuple(getattr(task, "std", None) or [1.0] * sum(channels)),
            inputs=arguments_of(self._example),
        )
        self._inputs: list[Any] = []
        self._labelled: list[Any] = []

    @property
    def example(self) -> Any:
        """As `trace` takes it: a list of images is the one argument of a detector."""
        if isinstance(self._example, list) and next(tensors_in(self._example), None) is not None:
            return (self._example,)
        return self._example

    def settle(self, model: nn.Module) -> nn.Module:
        if isinstance(self._example, Tensor | list) or len(self.about.shape) != 3:
            images = isinstance(self._example, Tensor) and self._example.ndim == 4
            return settle(model, self.about.shape if images else (), self.device)
        return settle(model, self.about.shape, self.device)

    def check(self, model: nn.Module) -> None:
        """The network runs on the inputs, and one batch has a loss that is a number."""
        samples = self.samples()
        self.settle(model)
        with evaluation_mode(model), torch.no_grad(), self._said("inputs"), recorded(model) as maps:
            call(model, next(iter(samples.inputs)))
        if self.maps != "none":
            map_loss(maps, maps, self.maps)  # UserError where they name none
        with self._said("loss"):
            batch = samples.with_batches(list(samples.batches)[:1])
            found = mean_task_loss(model, batch)
        if not math.isfinite(found):
            raise UserError(f"{self.name}: loss(model, batch) gave {found} on the first batch")

    def samples(self, batch: int = CALIBRATION_BATCH) -> Samples:
        """Read once; the batches are the task's own, whatever their size."""
        if not self._inputs:
            with self._said("inputs"):
                found = Samples(self.task.inputs(), ())
                self._inputs = list(_up_to(found.inputs, INPUTS, self.device))
            if not self._inputs:
                raise UserError(f"{self.name}: inputs() gave no batches; give some hundred inputs")
        if not self._labelled:
            with self._said("train"):
                some_of = some(Samples((), self._train(self.seed), self.task.loss), LABELLED)
                self._labelled = [moved(each, self.device) for each in some_of.batches]
        return Samples(self._inputs, self._labelled, self._loss, self.training)

    def score(self, model: nn.Module, split: str = "val") -> float:
        with evaluation_mode(model), torch.no_grad(), self._said("evaluate"):
            found: Any = self.task.evaluate(model, split)
            if isinstance(found, Tensor) and found.numel() == 1:
                found = found.item()
            if isinstance(found, bool) or not isinstance(found, int | float):
                try:
                    found = found.__float__()  # of numpy's
                except (AttributeError, TypeError, ValueError):
                    raise TaskError(
                        f"{self.name}: evaluate returned a {type(found).__name__}; "
                        f"return the {self.metric.name} as a number"
                    ) from None
        return float(found)

    def epochs(
        self,
        model: nn.Module,
        recipe: Recipe,
        *,
        seed: int,
        teacher: nn.Module | None = None,
        data_seed: int | None = None,
    ) -> Iterator[EpochResult]:
        order = 0 if data_seed is None else data_seed - seed
        taught = hasattr(self.task, "distill") or recipe.distill_maps != "none"
        return fit(
            model,
            lambda own: self._train(own + order),
            self._loss,
            recipe,
            seed=seed,
            device=self.device,
            teacher=teacher,
            distill=partial(self._distill, recipe) if taught else None,
        )

    def refresh(self, model: nn.Module, recipe: Recipe, seed: int) -> None:
        """On batches of training, in training mode but for dropout, by way of the loss."""

        def run(net: nn.Module, batch: Any) -> None:
            if self.training:
                net.train()
            self._loss(net, batch)

        recalibrate(model, list(_up_to(self._train(seed), REFRESHED, self.device)), run)

    def _train(self, seed: int) -> Iterable[Any]:
        with self._said("train"):
            return self.task.train(seed)

    def _loss(self, model: Any, batch: Any) -> Tensor:
        with self._said("loss"):
            return self.task.loss(model, batch)

    def _distill(
        self, recipe: Recipe, student: nn.Module, teacher: nn.Module, batch: Any
    ) -> Tensor:
        """What the task's own distill asks for, and the feature maps that the recipe names."""
        own: Callable[..., Tensor] | None = getattr(self.task, "distill", None)
        with ExitStack() as stack:
            stack.enter_context(self._said("distill"))
            if recipe.distill_maps == "none":
                assert own is not None
                return own(student, teacher, batch)
            ours = stack.enter_context(recorded(student))
            theirs = stack.enter_context(recorded(teacher))
            taught = torch.zeros(())
            if own is not None:
                taught = own(student, teacher, batch)
            else:  # all that is wanted of the loss is a pass of both
                self.task.loss(student, batch)
                samples = Samples((), (), self._loss, self.training)
                with torch.no_grad(), loss_mode(teacher, samples):
                    self.task.loss(teacher, batch)
        maps = map_loss(ours, theirs, recipe.distill_maps, recipe.temperature)
        return maps + taught.to(maps.device)

    @contextmanager
    def _said(self, what: str) -> Iterator[None]:
        """Whatever the task's code raises, as one line; what a machine lacks is not its fault."""
        try:
            yield
        except (TaskError, UserError, MemoryError, torch.AcceleratorError):
            raise
        except Exception as error:
            if isinstance(error, RuntimeError) and "memory" in str(error):
                raise
            first = next(iter(str(error).splitlines()), "")
            raise TaskError(
                f"{self.name}: {what} raised {type(error).__name__}: {first}"
            ) from error


def _up_to(batches: Iterable[Any], images: int, device: str) -> Iterator[Any]:
    """The first batches, of about so many images, on the device."""
    seen = 0
    for batch in islice(batches, images):
        yield moved(batch, device)
        seen += images_in(batch)
        if seen >= images:
            return


def _shape(example: Any) -> tuple[int, ...]:
    """Of one input: what the example says, or the first tensor in it."""
    if isinstance(example, tuple | list) and all(isinstance(n, int) for n in example) and example:
        return tuple(int(n) for n in example)
    args, kwargs = arguments(example)
    first = next(tensors_in((args, kwargs)), None)
    if first is None:
        raise UserError(
            f"example() gave a {type(example).__name__} without a tensor; give a small batch of "
            "inputs, as the network is called, or the shape of one"
        )
    listed = isinstance(args[0], list) if args else False
    return tuple(first.shape if listed else first.shape[1:])
