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

MEASURE_S = 0.8


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
