"""Copies of a network around other tensors: what runs in its place, so that it stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pruning.errors import UserError


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, each tensor once, under its first name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def twin(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Copy of `model` that holds `tensors` in place of those of these names, tied as they are.

    Caches, lists of tensors and modules under several names are copied too, so running the twin
    changes nothing in the model. UserError where the network cannot be copied.
    """
    memo: dict[int, Any] = {}
    for name, tensor in named_tensors(model).items():
        part = tensors[name]
        if isinstance(tensor, nn.Parameter) and not isinstance(part, nn.Parameter):
            part = nn.Parameter(part, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = part
    try:
        # deepcopy meets every tensor in the memo already, so nothing is ever copied whole
        with _Strays():
            made: nn.Module = copy.deepcopy(model, memo)
    except (TypeError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise UserError(
            f"{type(model).__name__} cannot be copied ({error}); keep what cannot be copied "
            "(files, locks, generators) out of the module's attributes"
        ) from error
    return made


class _Strays(TorchFunctionMode):
    """Copies tensors that are neither parameters nor buffers, results of a graph included."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.__deepcopy__:
            tensor, memo = args
            if id(tensor) not in memo and not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()
            if id(tensor) in memo:
                return memo[id(tensor)]
        with torch._C.DisableTorchFunction():
            return func(*args, **(kwargs or {}))
