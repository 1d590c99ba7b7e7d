"""A task on a device: what trials, final trainings and methods ask of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from pruning.data import Samples
from pruning.graph import ChannelGraph
from pruning.models import Argument, ModelInfo
from pruning.training import EpochResult, Recipe
from search.pareto import Metric

CALIBRATION_BATCH = 100  # the repair rotates its sampling with each batch: many small ones
MEASURING_BATCH = 256
BATCH_PIXELS = 2**20  # at most, of these and of what a CPU scores: a batch's activations are held


def held(batch: int, shape: Sequence[int]) -> int:
    """As many images [C, ...] of a batch as have BATCH_PIXELS, no fewer than 16."""
    return min(batch, max(16, BATCH_PIXELS // max(1, math.prod(shape[1:]))))


@dataclass(frozen=True)
class About:
    """What a model file says: how its network is built, and what goes in.

    shape: of one input; inputs: of the others too, where one tensor of floats is not all that the
    network takes; outputs: how many numbers a classifier gives, 0 of other networks; mean,
    std: of pixels from 0 to 1, for each channel.
    """

    model: str
    args: Mapping[str, Any]
    shape: tuple[int, ...]
    outputs: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    inputs: tuple[Argument, ...] = ()

    def info(self, graph: ChannelGraph) -> ModelInfo:
        """Of the whole network."""
        return ModelInfo(
            model=self.model,
            args=dict(self.args),
            input_shape=self.shape,
            classes=self.outputs,
            mean=self.mean,
            std=self.std,
            widths={group.name: group.channels for group in graph.groups},
            digest=graph.digest(),
            inputs=self.inputs,
        )


@dataclass(frozen=True)
class Identity:
    """What tells data apart where measurements are cached. probe: a few inputs, on the device."""

    content: tuple[bytes, ...]
    probe: Tensor = field(repr=False)


class Workload(ABC):
    """A task on a device. Networks come in on it; what is scored is not changed.

    notes: what the user should know of it. tested: test samples, where the metric is the share of
    them that are right; else 0. halves: whether half the batch is a remedy for want of memory.
    """

    metric: Metric
    about: About
    notes: tuple[str, ...] = ()
    tested: int = 0
    halves: ClassVar[bool] = False

    @property
    @abstractmethod
    def example(self) -> Any:
        """Inputs as `pruning.trace` takes them."""

    @abstractmethod
    def settle(self, model: nn.Module) -> nn.Module:
        """Move a network to the device, in the memory layout that suits it; in place."""

    @abstractmethod
    def check(self, model: nn.Module) -> None:
        """UserError where a network is none for this task, before anything is measured."""

    @abstractmethod
    def samples(self, batch: int = CALIBRATION_BATCH) -> Samples:
        """What repair and methods measure on."""

    @abstractmethod
    def score(self, model: nn.Module, split: str = "val") -> float:
        """The metric on val or test."""

    @abstractmethod
    def epochs(
        self,
        model: nn.Module,
        recipe: Recipe,
        *,
        seed: int,
        teacher: nn.Module | None = None,
        data_seed: int | None = None,
    ) -> Iterator[EpochResult]:
        """Train in place; a result after each pass. data_seed: of the order, if not `seed`."""

    @abstractmethod
    def refresh(self, model: nn.Module, recipe: Recipe, seed: int) -> None:
        """Measure batch norm anew, as the training of `recipe` sees its inputs."""

    def shared_order(self, seed: int) -> int | None:
        """`seed` where trials of one machine gain by reading in one order; else None."""
        return None

    def fingerprint(self) -> str:
        """Names the data: a run goes on with the same only. "" where that is not to be told."""
        return ""

    def identity(self, split: str) -> Identity | None:
        """Of val, test or "calibration"; None where measurements are not to be cached."""
        return None
