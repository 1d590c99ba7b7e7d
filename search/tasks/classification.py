"""Classification of images, by top-1: the task that `model` and `data` describe by default."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning.data import Images, Samples, StreamSet, cross_entropy
from pruning.errors import UserError
from pruning.models import registry, settle
from pruning.training import EpochResult, Recipe, evaluate, finetune, refresh
from search.config import Config
from search.data import Given, Splits
from search.data import splits as data
from search.pareto import TOP1, Metric
from search.tasks.workload import CALIBRATION_BATCH, About, Identity, Workload, held

CALIBRATION = 2048  # training images for BN statistics and method states
SCORING_BATCH = 500
PROBES = 256  # images of the first batch, which tell sets apart


class Classification:
    """A network that gives [images, classes] for images, on three splits; a `Task`."""

    def __init__(self, config: Config, given: Given | None = None) -> None:
        given = given or Given()
        if config.finetune.distill_maps != "none":
            raise UserError(
                "finetune.distill_maps is for segmentation, detection and tasks of your own; leave "
                "it out: finetune.distill alone asks for the base model's logits"
            )
        self.given = given
        self.splits: Splits = given.splits or data.load(config.data, config.seed)
        self.config = config if given.network is not None else _fitted(config, self.splits)
        self.metric: Metric = replace(TOP1, chance=1 / self.splits.train.classes)

    def model(self) -> nn.Module:
        return skeleton(self.config, self.config.model.args, self.given)

    def example(self) -> tuple[int, ...]:
        return self.splits.train.shape

    def train(self, seed: int) -> Iterable[Any]:
        recipe, generator = self.config.finetune, torch.Generator().manual_seed(seed)
        size = min(recipe.batch, len(self.splits.train))
        return self.splits.train.batches(
            size, shuffle=True, augment=recipe.augment, generator=generator, drop_last=True
        )

    def inputs(self) -> Iterable[Any]:
        images = self.calibration()
        return Samples.of(images.batches(held(CALIBRATION_BATCH, images.shape))).inputs

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return cross_entropy(model, batch)

    def evaluate(self, model: nn.Module, split: str) -> float:
        return _top1(model, getattr(self.splits, split))

    def calibration(self) -> Images:
        """A fixed, shuffled part of the training images for statistics."""
        train = self.splits.train
        order = np.random.default_rng(self.config.seed).permutation(len(train))[:CALIBRATION]
        return train.subset(order)


class ClassificationWorkload(Workload):
    """Classification on a device: its images lie there, and a GPU replays captured steps."""

    halves = True

    def __init__(self, task: Classification, device: str) -> None:
        self.task, self.device = task, device
        splits, model = task.splits, task.config.model
        self.metric, self.notes = task.metric, splits.notes
        self.train, self.val, self.test = (
            part.to(device) for part in (splits.train, splits.val, splits.test)
        )
        self.tested = len(self.test)
        self.calibration = task.calibration().to(device)
        self.about = About(
            model=model.name,
            args=dict(model.args),
            shape=self.train.shape,
            outputs=self.train.classes,
            mean=self.train.mean,
            std=self.train.std,
        )

    @property
    def example(self) -> tuple[int, ...]:
        return self.train.shape

    def settle(self, model: nn.Module) -> nn.Module:
        return settle(model, self.train.shape, self.device)

    def check(self, model: nn.Module) -> None:
        _check_outputs(model, self.task.config, self.train)

    def samples(self, batch: int = CALIBRATION_BATCH) -> Samples:
        return Samples.of(self.calibration.batches(held(batch, self.calibration.shape)))

    def score(self, model: nn.Module, split: str = "val") -> float:
        """Top-1, a fraction."""
        return _top1(model, self.val if split == "val" else self.test)

    def epochs(
        self,
        model: nn.Module,
        recipe: Recipe,
        *,
        seed: int,
        teacher: nn.Module | None = None,
        data_seed: int | None = None,
    ) -> Iterator[EpochResult]:
        return finetune(
            model,
            self.train,
            recipe,
            seed=seed,
            device=self.device,
            teacher=teacher,
            data_seed=data_seed,
        )

    def refresh(self, model: nn.Module, recipe: Recipe, seed: int) -> None:
        refresh(model, self.calibration, recipe, seed)

    def shared_order(self, seed: int) -> int | None:
        """Streams are decoded once for all trials of a machine, where their orders are one."""
        return seed if isinstance(self.train, StreamSet) else None

    def fingerprint(self) -> str:
        """16 hex digits that tell sets apart by shape and labels: no decoder changes these."""
        digest = hashlib.sha256()
        for images in (self.train, self.val):
            digest.update(repr(images.shape).encode())
            digest.update(images.labels.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def identity(self, split: str) -> Identity:
        """The labels and one batch tell sets apart."""
        images: Images = getattr(self, split)
        first, _ = next(iter(images.batches(PROBES)))
        labels = images.labels.cpu().numpy().tobytes()
        return Identity((labels, first.cpu().contiguous().numpy().tobytes()), first)


def _top1(model: nn.Module, images: Images) -> float:
    on_cpu = images.device.type == "cpu"
    return evaluate(
        model, images.batches(held(SCORING_BATCH, images.shape) if on_cpu else SCORING_BATCH)
    )


def skeleton(config: Config, args: Any, given: Given) -> nn.Module:
    """A network to load weights into: a copy of what was given, else built by its name."""
    import copy

    if given.network is not None:
        return copy.deepcopy(given.network)
    return registry.resolve(config.model.name, args, trust=config.model.trust_factory)


def _fitted(config: Config, splits: Splits) -> Config:
    """The factory's class and channel counts from the data, where nobody stated them."""
    model, args = config.model, dict(config.model.args)
    if not registry.runs_code(model.name) and model.name.rpartition(":")[0] in ("", "zoo"):
        args.setdefault("in_channels", splits.train.shape[0])
    argument = registry.class_argument(model.name, trust=model.trust_factory)
    if argument is not None:
        args.setdefault(argument, splits.train.classes)
    return replace(config, model=replace(model, args=args))


def _check_outputs(net: nn.Module, config: Config, train: data.Images) -> None:
    """UserError unless the network gives each image one number for each class."""
    name, images = config.model.name, torch.zeros(2, *train.shape)
    try:
        with torch.no_grad():
            outputs = net(images)
    except RuntimeError as error:
        raise UserError(
            f"{name} cannot read images of shape {train.shape} "
            f"({str(error).splitlines()[0]}); set model.args or data.image_size"
        ) from error
    served = "classification needs [images, classes]"
    if not isinstance(outputs, Tensor):
        raise UserError(
            f"{name} returns a {type(outputs).__name__}, and {served}, one tensor; "
            "name a factory whose network returns that"
        )
    if outputs.ndim != 2:
        raise UserError(
            f"{name} has outputs of shape {list(outputs.shape)} for two images: only "
            f"classification is served here, which needs [images, classes]; name a network that "
            "classifies whole images"
        )
    if outputs.shape[1] != train.classes:
        argument = registry.class_argument(name, trust=config.model.trust_factory)
        remedy = (
            f"the data's {train.classes} classes come from the folders or labels of data.root; "
            f"leave model.args.{argument} out, or set it to {train.classes}"
            if argument
            else "give its factory an argument num_classes, so that it can be made for them"
        )
        raise UserError(
            f"{name} has {outputs.shape[1]} outputs, the data {train.classes} classes (only "
            f"classification is served); {remedy}"
        )
