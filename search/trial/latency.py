"""Measured time of a network on this device: warm, median and spread, with what it ran on."""

from __future__ import annotations

import platform
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from pruning.data import call, moved, repeated
from pruning.errors import UserError
from pruning.models import settle
from search.config import quantity

MEASURE_S = 0.8
SEARCH_S = 0.1  # in a search, where each trial pays for it
RUNS = (10, 300)  # fewest and most of them


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
    seconds = MEASURE_S if seconds is None else seconds
    wait = torch.cuda.synchronize if device.startswith("cuda") else None

    def once() -> None:
        call()
        if wait:
            wait()

    # one run at a time: torch.utils.benchmark.Timer takes means over blocks of ten and more, which
    # on a machine with other trials on it are up to twice the median of single runs
    timer = timeit.Timer(once)
    timer.timeit(1)  # a GPU loads its kernels in it: no guide to how long a run takes
    first, until = timer.timeit(1), timeit.default_timer() + seconds / 4
    while timeit.default_timer() < until:
        first = timer.timeit(1)
    runs = int(np.clip(seconds / max(first, 1e-9), *RUNS))
    low, median, high = 1e3 * np.percentile(timer.repeat(runs, number=1), [25, 50, 75])
    return Latency(batch, float(median), float(high - low), runs)


def device_of(name: str) -> str:
    """The device that "auto" means here: the GPU if there is one."""
    there = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if there else "cpu"
    if name.startswith("cuda") and not there:
        raise UserError("torch sees no GPU here; use --device cpu, or install torch with CUDA")
    return name


def describe_device(device: str) -> str:
    """ "NVIDIA H200", or "x86_64 CPU, 1 thread"."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' * (threads != 1)}"


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


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = (line.split(":", 1)[1] for line in lines if line.startswith("model name"))
            return next(names).strip()
    except (OSError, StopIteration):
        return f"{platform.machine()} CPU"
