"""Images of the built-in tasks beside classification: kept as bytes, handed out normalised."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning.errors import UserError
from pruning.models import registry
from search.config import Config


@dataclass(frozen=True)
class Pictures:
    """uint8 [N, C, H, W]; mean and std of pixels from 0 to 1, for each channel."""

    pixels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.pixels.shape[1:])

    def at(self, rows: np.ndarray) -> Tensor:
        """float32 [rows, C, H, W], normalised."""
        x = self.pixels[torch.from_numpy(np.asarray(rows))].float().div_(255)
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
        return x.sub_(mean).div_(std)


class Shuffled:
    """Batches in another order at each walk; the same walks for the same seed.

    at: (rows, random numbers) → the batch. What does not fill a batch is left out.
    """

    def __init__(
        self,
        count: int,
        batch: int,
        seed: int,
        at: Callable[[np.ndarray, np.random.Generator], Any],
    ) -> None:
        self.count, self.batch, self.at = count, min(batch, count), at
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return self.count // self.batch

    def __iter__(self) -> Iterator[Any]:
        order = self.rng.permutation(self.count)
        for i in range(len(self)):
            yield self.at(order[i * self.batch : (i + 1) * self.batch], self.rng)


def built(
    config: Config, network: nn.Module | None, pictures: Pictures, classes: int
) -> tuple[Callable[[], nn.Module], tuple[str, dict[str, Any]]]:
    """How the network is made, and its name and arguments; UserError for a name of no network."""
    name, args = config.model.name, dict(config.model.args)
    if network is not None:
        whole = network
        return lambda: copy.deepcopy(whole), (name, args)
    trust = config.model.trust_factory
    if not registry.runs_code(name) and name.rpartition(":")[0] in ("", "zoo"):
        args.setdefault("in_channels", pictures.shape[0])
    argument = registry.class_argument(name, trust=trust)
    if argument is not None:
        given = args.setdefault(argument, classes)
        if given != classes:
            raise UserError(
                f"model.args.{argument} is {given}, the data has {classes}; leave it out"
            )
    return lambda: registry.resolve(name, args, trust=trust), (name, args)
