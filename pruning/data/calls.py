"""Inputs in any form that networks take, and what can be asked of them without knowing which."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pruning.errors import UserError
from pruning.graph import each, tensors_in

FEW = 2  # images that tell how a network calls its layers
PART_PIXELS, GPU_PART_PIXELS = 2**18, 2**22
"""Images are walked in parts of about this size: on a CPU, memory for larger tensors is new to the
system each time, which takes longer than what is computed in it."""


def call(model: Any, inputs: Any) -> Any:
    """model(inputs): a tuple holds positional arguments, a dictionary keywords.

    Anything else, a list of images too, is one argument.
    """
    args, kwargs = arguments(inputs)
    return model(*args, **kwargs)


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional arguments and keywords that inputs stand for."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def images_in(inputs: Any) -> int:
    """How many images (or other samples) a batch holds: the length of its first list or tensor."""
    if isinstance(inputs, Tensor):
        return len(inputs) if inputs.ndim else 0
    if isinstance(inputs, list):
        return len(inputs)
    parts = inputs.values() if isinstance(inputs, Mapping) else inputs
    if not isinstance(parts, Iterable) or isinstance(parts, str):
        return 0
    return next((n for n in map(images_in, parts) if n), 0)


def moved(batch: Any, device: torch.device | str) -> Any:
    """A batch with every tensor in it on a device; nested tuples, lists and dictionaries."""
    return each(batch, lambda tensor: tensor.to(device, non_blocking=True))


def few(inputs: Any, count: int = FEW) -> Any:
    """The first images of inputs that are one tensor; others as they are."""
    return inputs[:count] if isinstance(inputs, Tensor) else inputs


def part_size(shape: Sequence[int], device: str = "cpu") -> int:
    """How many images [C, ...] of this shape make a part."""
    most = PART_PIXELS if device == "cpu" else GPU_PART_PIXELS
    return max(1, most // max(1, math.prod(shape[1:])))


def parts(inputs: Any) -> Sequence[Any]:
    """A batch in parts where it is one tensor [N, C, ...], else as it is."""
    if not isinstance(inputs, Tensor) or inputs.ndim < 3:
        return (inputs,)
    return inputs.split(part_size(inputs.shape[1:], inputs.device.type))


def repeated(inputs: Any, count: int) -> Any:
    """A batch of `count` inputs, each the first of those given."""
    if isinstance(inputs, Tensor):
        return inputs[:1].expand(count, *inputs.shape[1:]).contiguous() if inputs.ndim else inputs
    if isinstance(inputs, list):
        return inputs[:1] * count
    if isinstance(inputs, tuple):
        return tuple(repeated(each, count) for each in inputs)
    if isinstance(inputs, Mapping):
        return {key: repeated(each, count) for key, each in inputs.items()}
    return inputs


def first(batches: Iterable[Any], what: str = "inputs") -> Any:
    """The first of them; UserError where there is none, or none with a tensor in it."""
    found = next(iter(batches), None)
    if found is None or next(tensors_in(found), None) is None:
        raise UserError(f"no {what}: hand in batches of tensors that can be walked again")
    return found


class Again:
    """Batches changed one by one as they are handed out; walked again where their source can be."""

    def __init__(self, source: Iterable[Any], change: Any) -> None:
        self.source, self.change = source, change

    def __iter__(self) -> Iterator[Any]:
        return map(self.change, self.source)
