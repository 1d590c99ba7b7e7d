"""Memory layouts: channels_last, the faster one, where a network's code can take it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pruning.graph import named_tensors, twin


def settle(
    model: nn.Module, shape: Sequence[int], device: torch.device | str | None = None
) -> nn.Module:
    """Move `model` (in place, returned) to `device` and to the layout that it runs in.

    shape: one input, [C, H, W] for images. That is channels_last, unless the network is not one of
    images or its code asks for contiguous tensors, as `x.view(x.size(0), -1)` does: then inputs of
    any layout are made contiguous before they enter.
    """
    model.to(device=device)
    if len(shape) != 3 or any(t.ndim == 5 for t in named_tensors(model).values()):
        return model
    x = torch.zeros(1, *shape, device=_device(model)).to(memory_format=torch.channels_last)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if not _runs(model, x):
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        if _contiguous not in model._forward_pre_hooks.values():
            model.register_forward_pre_hook(_contiguous)
    return model


@contextmanager
def accepting(model: nn.Module, x: Tensor) -> Iterator[None]:
    """For a while `model` takes inputs of the layout of `x`, also where its code cannot."""
    if x.ndim != 4 or x.is_contiguous() or _runs(model, x[:1].to(_device(model))):
        yield
        return
    handle = model.register_forward_pre_hook(_contiguous)
    try:
        yield
    finally:
        handle.remove()


def _contiguous(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.contiguous() if isinstance(x, Tensor) else x for x in args)


def _runs(model: nn.Module, x: Tensor) -> bool:
    # only a twin may run: a forward pass can leave caches of this size behind
    tensors = {
        name: t.detach() if isinstance(t, nn.Parameter) else t.detach().clone()
        for name, t in named_tensors(model).items()
    }
    try:
        with torch.no_grad():
            twin(model, tensors).eval()(x.to(_dtype(model)))
    except Exception:  # of the network: it may take something else than one tensor
        return False
    return True


def _device(model: nn.Module) -> torch.device:
    return next((t.device for t in model.parameters()), torch.device("cpu"))


def _dtype(model: nn.Module) -> torch.dtype:
    return next((t.dtype for t in model.parameters() if t.is_floating_point()), torch.float32)
