"""Cut a network (or its state dict) to kept channels: exact, without tracing anything again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from pruning.graph.channel_graph import ChannelGraph, Keep
from pruning.graph.opening import plain
from pruning.graph.twins import named_tensors, twin


def cut(model: nn.Module, graph: ChannelGraph, keep: Keep) -> nn.Module:
    """Copy of `model` with only the kept channels; the model itself is untouched."""
    model = plain(model)
    slim = fit_attributes(twin(model, cut_state(named_tensors(model), graph, keep)))
    kept = graph.kept_units(keep)
    numbers = {
        (each.module, each.name, each.index): int(kept[each.units].sum())
        for each in graph.attributes
    }
    stays = set(slim.state_dict())
    whole = {name for name, tensor in slim.named_buffers() if name not in stays}
    gone = [n for (n, _), units in graph.axes.items() if n in whole and not kept[units].all()]
    if gone or "cut_buffers" in vars(model):  # what a file has to hold beside the state dict
        vars(slim)["cut_buffers"] = sorted({*gone, *vars(model).get("cut_buffers", ())})
    return set_numbers(slim, numbers)


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
    tied: dict[int, nn.Parameter] = {}
    old = {name: id(p) for name, p in model.named_parameters(remove_duplicate=False)}
    for name, tensor in state.items():
        path, _, leaf = name.rpartition(".")
        module = modules.get(path)
        if module is None or (leaf not in module._parameters and leaf not in module._buffers):
            raise KeyError(f"the network has no tensor {name}")
        if leaf in module._buffers:
            module._buffers[leaf] = tensor
        else:
            # a tensor under two names stays one
            own = old.get(name, id(tensor))
            module._parameters[leaf] = tied.setdefault(own, nn.Parameter(tensor))
    return fit_attributes(model)


Numbers = Mapping[tuple[str, str, int | None], int]
"""Attributes of modules that count channels: (module, attribute, place in it) → number."""


def set_numbers(model: nn.Module, numbers: Numbers) -> nn.Module:
    """Set numbers of channels that modules keep as attributes (in place, returned).

    The model keeps a list of those that changed, `adapted`, for the file it is saved to. Only
    numbers that are there already are set: ValueError for any other.
    """
    adapted: dict[tuple[str, str, int | None], int] = dict(getattr(model, "adapted", {}))
    for (path, name, index), number in numbers.items():
        module = model.get_submodule(path)
        old = vars(module).get(name)
        now = old[index] if index is not None and isinstance(old, tuple | list) else old
        if not isinstance(now, int) or isinstance(now, bool):
            raise ValueError(f"{path}.{name} is no number of channels")
        if now == number:
            continue
        adapted[path, name, index] = number
        if index is None:
            vars(module)[name] = number
        else:
            assert isinstance(old, tuple | list)
            vars(module)[name] = type(old)([*old[:index], number, *old[index + 1 :]])
    if adapted:
        vars(model)["adapted"] = adapted
    return model


def fits_itself(module: nn.Module) -> bool:
    """Whether `fit_attributes` reads the module's sizes off its tensors."""
    scaled = isinstance(module, nn.LayerNorm | nn.GroupNorm) and module.weight is not None
    return scaled or isinstance(module, _ConvNd | nn.Linear | _NormBase | nn.PReLU)


def fit_attributes(model: nn.Module) -> nn.Module:
    """Make in_channels, num_features and the like agree with the tensors (in place, returned)."""
    for module in model.modules():
        if isinstance(module, _ConvNd) and module.transposed:
            per_block = module.in_channels // module.groups
            module.in_channels = module.weight.shape[0]
            if module.groups > 1:
                module.groups = module.in_channels // per_block
            module.out_channels = module.weight.shape[1] * module.groups
        elif isinstance(module, _ConvNd):
            per_block = module.out_channels // module.groups
            module.out_channels = module.weight.shape[0]
            if module.groups > 1:
                module.groups = module.out_channels // per_block
            module.in_channels = module.weight.shape[1] * module.groups
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.Embedding):
            module.num_embeddings, module.embedding_dim = module.weight.shape
        elif isinstance(module, _NormBase):
            sizes = (module.running_mean, module.weight)
            module.num_features = next(
                (len(t) for t in sizes if t is not None), module.num_features
            )
        elif isinstance(module, nn.LayerNorm) and module.weight is not None:
            module.normalized_shape = tuple(module.weight.shape)
        elif isinstance(module, nn.GroupNorm) and module.weight is not None:
            per_group = module.num_channels // module.num_groups
            module.num_channels = len(module.weight)
            if module.num_groups > 1:
                module.num_groups = module.num_channels // per_group
        elif isinstance(module, nn.PReLU):
            module.num_parameters = module.weight.numel()
    return model
