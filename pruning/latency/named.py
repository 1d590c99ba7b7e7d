"""Runtimes by the names that users give them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pruning.errors import UserError
from pruning.latency.devices import device_of
from pruning.latency.onnx_runtime import OnnxRuntime
from pruning.latency.runtimes import Runtime, Torch

RUNTIMES = ("torch", "torch:cuda", "onnxruntime")


def runtime_of(name: str, batch: int = 1) -> Runtime:
    """A runtime by name; UserError where there is none or its package is missing."""
    kind, _, device = name.partition(":")
    if kind == "torch" and name in RUNTIMES:
        return Torch(device_of(device or "cpu"), batch)
    if name == "onnxruntime":
        return OnnxRuntime(batch)
    raise UserError(f"no runtime {name}: choose {', '.join(RUNTIMES)}")


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads for what is timed inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
