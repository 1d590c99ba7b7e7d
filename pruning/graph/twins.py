"""Copies of a network around other tensors: what runs in its place, so that it stays as it was."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import BuiltinFunctionType, FunctionType
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
            return _copied(model, memo)
    except (TypeError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise UserError(
            f"{type(model).__name__} cannot be copied ({error}); keep what cannot be copied "
            "(files, locks, generators) out of the module's attributes"
        ) from error


PLAIN = (int, float, bool, str, bytes, type(None), type, FunctionType, BuiltinFunctionType)


def _copied(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """copy.deepcopy(model, memo), some five times as fast for modules of the usual kind."""
    modules = list(model.modules())
    if any(_copies_itself(kind) for kind in {type(module) for module in modules}):
        return copy.deepcopy(model, memo)
    for module in modules:  # all at once: attributes may name any of them
        memo[id(module)] = type(module).__new__(type(module))
    for module in modules:
        vars(memo[id(module)]).update({key: _part(v, memo) for key, v in vars(module).items()})
    return memo[id(model)]


def _copies_itself(kind: type) -> bool:
    own = kind.__reduce_ex__ is not object.__reduce_ex__ or kind.__reduce__ is not object.__reduce__
    return own or hasattr(kind, "__deepcopy__") or "__getstate__" in {*dir(kind)} - {*dir(object)}


def _part(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind is tuple and all(type(item) in PLAIN for item in value):
        return value
    if kind in (dict, OrderedDict) and id(value) not in memo:
        made = memo[id(value)] = kind()
        for key, item in value.items():
            made[key if type(key) in PLAIN else copy.deepcopy(key, memo)] = _part(item, memo)
        return made
    return copy.deepcopy(value, memo)


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
