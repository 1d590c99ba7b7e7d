"""What a network is called with, made from a shape or taken as the caller gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning.errors import UserError
from pruning.graph.tracing.labels import tensors_in

SMALL_SIDE = 64  # pixels: enough to tell right from wrong, where the network runs on it


@dataclass(frozen=True)
class Inputs:
    """One call of a network: args and kwargs. `images` of them run at once; shape: of one."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    images: int
    shape: tuple[int, ...]
    given: bool = False

    def on(self, device: torch.device | str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Fresh copies of the tensors, on a device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.detach().to(device, copy=True)

        return each(self.args, move), each(dict(self.kwargs), move)

    def random(self, dtype: torch.dtype | None, side: int | None = None) -> Inputs:
        """Noise in place of floating-point inputs; side: images of so many pixels instead."""
        generator = torch.Generator().manual_seed(0)

        def noise(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            wanted = dtype if dtype is not None else tensor.dtype
            if self.given and not bool((tensor == tensor.reshape(-1)[:1]).all()):
                return tensor.to(wanted)
            shape = list(tensor.shape)
            if side is not None:
                shape[-2:] = [side, side]
            return torch.randn(shape, generator=generator).to(tensor.device, wanted)

        return Inputs(
            each(self.args, noise), each(dict(self.kwargs), noise), self.images, self.shape
        )


def each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Nested lists, tuples and dictionaries with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(each(item, change) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(each(item, change) for item in value)
    if isinstance(value, Mapping):
        return {key: each(item, change) for key, item in value.items()}
    return value


def inputs_of(model: nn.Module, example: Any, images: int = 2) -> Inputs:
    """What to call the network with; UserError for what cannot be.

    example: the shape of one input, (3, 224, 224), or a batch as the network is called: a tensor,
    a tuple of positional arguments, or a dictionary of keyword arguments.
    """
    if _is_shape(example):
        shape = tuple(int(n) for n in example)
        return Inputs((torch.zeros(images, *shape, dtype=_dtype(model)),), {}, images, shape)
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example, Mapping):
        kwargs = dict(example)
    else:
        args = tuple(example) if isinstance(example, (tuple, list)) else (example,)
    first = next(tensors_in((args, kwargs)), None)
    if first is None or first.ndim == 0:
        raise UserError(
            f"{example!r} is no input; give the shape of one, as in (3, 224, 224), or a batch as "
            "the network is called: a tensor, a tuple of arguments or a dictionary of keywords"
        )
    shape = tuple(first.shape[1:])
    listed = next((a for a in args if isinstance(a, (list, tuple))), None)
    if listed is not None and next(tensors_in(args[0]), None) is first:
        return Inputs(args, kwargs, len(listed), tuple(first.shape), given=True)
    return Inputs(args, kwargs, len(first), shape, given=True)


def _is_shape(example: Any) -> bool:
    return (
        isinstance(example, Sequence)
        and not isinstance(example, str)
        and len(example) > 0
        and all(isinstance(n, int) and not isinstance(n, bool) for n in example)
    )


def _dtype(model: nn.Module) -> torch.dtype:
    floating = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(floating, torch.float32)
