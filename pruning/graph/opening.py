"""The network inside a wrapper, and what cannot be traced, refused with the remedy."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from pruning.errors import UserError
from pruning.graph.standardised import make_plain, standardised
from pruning.graph.twins import named_tensors, twin


def opened(model: nn.Module) -> nn.Module:
    """The network inside DataParallel, DistributedDataParallel or torch.compile.

    UserError for what cannot be traced or cut.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"{type(model).__name__} is no nn.Module; hand in the network itself")
    model = _inside(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError("a ScriptModule cannot be cut; hand in the module it was made from")
    tensors = [*model.parameters(), *model.buffers()]
    if any(is_lazy(tensor) for tensor in tensors):
        raise UserError("the network has lazy modules; run one batch through it first")
    if any(tensor.is_meta for tensor in tensors):
        raise UserError("the network is on the meta device; load its weights first (to_empty)")
    return model


def _inside(model: nn.Module) -> nn.Module:
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def plain(model: nn.Module) -> nn.Module:
    """The network with weights in place of what computes them; itself where nothing does.

    weight_norm, spectral_norm, other parametrisations and standardised convolutions hold for a
    network of one width: a copy has them removed, and computes the same.
    """
    model = _inside(model)
    if not any(_computed(module) for module in model.modules()):
        return model
    tensors = {name: t.detach().clone() for name, t in named_tensors(model).items()}
    made = twin(model, tensors)
    modes = [(module, module.training) for module in made.modules()]
    made.eval()  # or a spectral norm would go on measuring
    for module in list(made.modules()):
        _remove(module)
    for module, training in modes:
        module.training = training
    return made


def _computed(module: nn.Module) -> bool:
    old = any(isinstance(h, WeightNorm | SpectralNorm) for h in module._forward_pre_hooks.values())
    return old or parametrize.is_parametrized(module) or standardised(module)


def _remove(module: nn.Module) -> None:
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            nn.utils.remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            nn.utils.remove_spectral_norm(module, hook.name)
    if parametrize.is_parametrized(module):
        held = module.parametrizations
        # torch's own removal changes the class, which the copy shares with the original
        values = {name: getattr(module, name).detach().clone() for name in held}  # type: ignore[union-attr]
        module.__class__ = type(module).__bases__[0]
        del module._modules["parametrizations"]
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value))
    if standardised(module):
        make_plain(module)
