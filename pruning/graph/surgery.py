"""Cut a network (or its state dict) to kept channels: exact, without tracing anything again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from pruning.graph.channel_graph import ChannelGraph, Keep
from pruning.graph.twins import named_tensors, twin


def cut(model: nn.Module, graph: ChannelGraph, keep: Keep) -> nn.Module:
    """Copy of `model` with only the kept channels; the model itself is untouched."""
    return fit_attributes(twin(model, cut_state(named_tensors(model), graph, keep)))


def cut_state(state: Mapping[str, Tensor], graph: ChannelGraph, keep: Keep) -> dict[str, Tensor]:
    """The tensors of `state` with only the kept positions of each axis, always copies."""
    kept = graph.kept_units(keep)
    slim = dict(state)
    copied = set()
    for (name, axis), units in graph.axes.items():
        if name not in slim:
            continue
        stays = kept[units]
        if not stays.all():
            index = torch.from_numpy(np.flatnonzero(stays)).to(slim[name].device)
            slim[name] = slim[name].detach().index_select(axis, index)
            copied.add(name)
    for name, tensor in slim.items():
        if name not in copied:
            slim[name] = tensor.detach().clone()
    return slim


def resize(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Give a skeleton the tensors of `state`, whatever their widths (in place, returned).

    A bias that the skeleton lacks is added to its layer. KeyError names tensors that do not match.
    """
    missing = set(model.state_dict()) - set(state)
    if missing:
        raise KeyError(f"no tensor {sorted(missing)[0]} for this network")
    modules = dict(model.named_modules(remove_duplicate=False))  # shared ones under all names
    for name, tensor in state.items():
        path, _, leaf = name.rpartition(".")
        module = modules.get(path)
        if module is None or (leaf not in module._parameters and leaf not in module._buffers):
            raise KeyError(f"the network has no tensor {name}")
        if leaf in module._buffers:
            module._buffers[leaf] = tensor
        else:
            module._parameters[leaf] = nn.Parameter(tensor)
    return fit_attributes(model)


def fit_attributes(model: nn.Module) -> nn.Module:
    """Make in_channels, num_features and the like agree with the tensors (in place, returned)."""
    for module in model.modules():
        if isinstance(module, _ConvNd) and not module.transposed:
            per_block = module.out_channels // module.groups
            module.out_channels = module.weight.shape[0]
            if module.groups > 1:
                module.groups = module.out_channels // per_block
            module.in_channels = module.weight.shape[1] * module.groups
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, _NormBase):
            sizes = (module.running_mean, module.weight)
            module.num_features = next(
                (len(t) for t in sizes if t is not None), module.num_features
            )
        elif isinstance(module, nn.PReLU):
            module.num_parameters = module.weight.numel()
    return model
