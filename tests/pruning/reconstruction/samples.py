"""Batches of noise, and what a network makes of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pruning.training import evaluation_mode


def batches(shape: tuple[int, ...], count: int = 4, size: int = 8) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(size, *shape, generator=generator), torch.zeros(size)) for _ in range(count)
    ]


def outputs(model: nn.Module, batches: Any) -> Tensor:
    with torch.no_grad(), evaluation_mode(model):
        return torch.cat([model(x) for x, _ in batches])
