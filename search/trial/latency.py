"""Measured time of a network on this device: warm, median and spread, with what it ran on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pruning.data import call, moved, repeated
from pruning.latency import measure
from pruning.models import settle
from search.config import quantity

MEASURE_S = 0.8
SEARCH_S = 0.1  # in a search, where each trial pays for it


@dataclass(frozen=True)
class Latency:
    """Time of one batch in ms: median and interquartile range of `runs` runs."""

    batch: int
    median_ms: float
    iqr_ms: float
    runs: int


def of_model(
    model: nn.Module,
    example: Any,
    batch: int,
    device: str = "cpu",
    seconds: float | None = None,
) -> Latency:
    """Latency of a model in eval mode, which moves to the device.

    example: the shape of an image (C, H, W), or a batch of inputs as the network is called, whose
    first is repeated. Images are channels-last where its code can take it. A GPU must not be shared
    for the number to mean anything.
    """
    if isinstance(example, tuple) and all(isinstance(n, int) for n in example):
        model = settle(model, example, device).eval()
        inputs: Any = torch.zeros(batch, *example, device=device)
        if inputs.ndim == 4:
            inputs = inputs.to(memory_format=torch.channels_last)
    else:
        model = model.to(device).eval()
        inputs = moved(repeated(example, batch), device)
    with torch.inference_mode():
        return of_call(lambda: call(model, inputs), batch, device, seconds)


def of_call(
    call: Callable[[], Any], batch: int, device: str = "cpu", seconds: float | None = None
) -> Latency:
    """Latency of anything that runs one batch; `device` tells how to wait for its end.

    `seconds`: about how long to measure, after a quarter of that to warm up.
    """
    found = measure(call, MEASURE_S if seconds is None else seconds, device)
    return Latency(batch, found.median_ms, found.iqr_ms, found.runs)


@dataclass(frozen=True)
class Limit:
    """`search.max_latency_ms` in a worker, with what the base model takes there."""

    most_ms: float
    base: Latency
    example: Any
    device: str

    def violation(self, model: nn.Module) -> str:
        """Why a slim model is too slow, for its row's reason; "" if it is not."""
        found = of_model(model, self.example, self.base.batch, self.device, SEARCH_S)
        if found.median_ms <= self.most_ms:
            return ""
        return (
            f"max_latency_ms missed by {found.median_ms / self.most_ms - 1:.1%}: "
            f"{found.median_ms:.3g} ms at batch {found.batch} (base {self.base.median_ms:.3g} ms)"
        )


def limit(
    text: str | float | None,
    base: nn.Module,
    example: Any,
    device: str = "cpu",
    batch: int = 1,
) -> Limit | None:
    """The limit that `search.max_latency_ms` sets ("2.5", or "60%" of the base); None without one.

    The base model is measured here, on the device where the slim ones will be.
    """
    if text is None:
        return None
    most = quantity.parse(text, "search.max_latency_ms")
    measured = of_model(base, example, batch, device)
    return Limit(most.of(measured.median_ms), measured, example, device)
