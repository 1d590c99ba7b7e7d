"""The network inside a wrapper, and what cannot be traced, refused with the remedy."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from pruning.errors import UserError


def opened(model: nn.Module) -> nn.Module:
    """The network inside DataParallel, DistributedDataParallel or torch.compile."""
    if not isinstance(model, nn.Module):
        raise UserError(f"{type(model).__name__} is no nn.Module; hand in the network itself")
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            break
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError("a ScriptModule cannot be cut; hand in the module it was made from")
    tensors = [*model.parameters(), *model.buffers()]
    if any(is_lazy(tensor) for tensor in tensors):
        raise UserError("the network has lazy modules; run one batch through it first")
    if any(tensor.is_meta for tensor in tensors):
        raise UserError("the network is on the meta device; load its weights first (to_empty)")
    return model
