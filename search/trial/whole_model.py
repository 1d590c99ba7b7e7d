"""The whole network of a search: built by name for the data, given its weights or trained."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pruning.errors import UserError
from pruning.models import checkpoint, files, registry, weights
from pruning.training import finetune
from search.config import Config
from search.data import Given
from search.data import splits as data


def build(
    config: Config,
    stored: str | None,
    given: Given,
    train: data.Images,
    device: str,
    say: Callable[[str], None],
    note: Callable[[str], None],
    refuse: Callable[[nn.Module, tuple[int, ...]], None],
) -> tuple[nn.Module, float]:
    """The network with its weights, and the seconds that its training took (0 with given ones).

    `stored`: the run's own base model; `given`: a network that a program handed in. `note` is told
    what the user should know; `refuse` may raise UserError before anything is trained.
    """
    torch.manual_seed(config.seed)
    net = skeleton(config, config.model.args, given)
    if stored is not None and given.network is not None:
        _check_same(net, stored, config)
        return net, 0.0
    if stored is not None:
        # the caller's network by the caller's consent, whatever the file names
        net = checkpoint.load(stored, base=net)
        _check_weights(net, config)
        return net, 0.0
    whole = given.network is not None
    if config.model.weights is not None:
        metadata = weights.load_weights(
            net, config.model.weights, new_head=config.model.new_head, say=note
        )
        whole = "new_head" not in metadata
    _check_classes(net.eval(), config, train)
    # before minutes of training or measuring
    refuse(net, train.shape)
    if whole:
        return net, 0.0
    say(f"training the base model: {config.model.name}, {config.base.epochs:g} epochs")
    began = time.perf_counter()
    try:
        for epoch in finetune(net, train, config.base.recipe(), seed=config.seed, device=device):
            if round(epoch.epoch) % math.ceil(config.base.epochs / 5) == 0:
                say(f"base model: epoch {epoch.epoch:g}, loss {epoch.train_loss:.3f}")
    except FloatingPointError as error:
        raise UserError(f"the base model does not train: {error}, base.lr") from error
    return net, time.perf_counter() - began


def skeleton(config: Config, args: Mapping[str, Any], given: Given) -> nn.Module:
    """A network to load weights into: a copy of what was given, else built by its name."""
    if given.network is not None:
        return copy.deepcopy(given.network)
    return registry.resolve(config.model.name, args, trust=config.model.trust_factory)


def _check_same(net: nn.Module, stored: str, config: Config) -> None:
    """UserError where the network given is not the one that the run was begun with."""
    tensors, own = files.read_tensors(stored)[0], net.state_dict()
    same = tensors.keys() == own.keys() and all(
        tensors[name].shape == t.shape and torch.equal(tensors[name], t) for name, t in own.items()
    )
    if not same:
        raise UserError(
            f"{config.out} holds a run of another network, or of other weights; "
            "give the same trained network to go on, or choose another out"
        )


def _check_weights(net: nn.Module, config: Config) -> None:
    """UserError where the weights named are not those of the run's base model.

    Published ones are not fetched again: a node may have no way to them.
    """
    if config.model.weights is None or config.model.weights.startswith("torchvision:"):
        return
    named = copy.deepcopy(net)
    given = weights.load_weights(named, config.model.weights, new_head=config.model.new_head)
    if "new_head" in given:  # it was trained, and all the others with it
        return
    before, now = net.state_dict(), named.state_dict()
    if not all(torch.equal(tensor, now[name]) for name, tensor in before.items()):
        raise UserError(
            f"{config.out} holds a run of another model.weights; repeat its base model to go on, "
            "or choose another --out"
        )


def fit_to_data(config: Config, splits: data.Splits) -> Config:
    """The factory's class and channel counts from the data, where nobody stated them."""
    model, args = config.model, dict(config.model.args)
    if not registry.runs_code(model.name) and model.name.rpartition(":")[0] in ("", "zoo"):
        args.setdefault("in_channels", splits.train.shape[0])
    argument = registry.class_argument(model.name, trust=model.trust_factory)
    if argument is not None:
        args.setdefault(argument, splits.train.classes)
    return replace(config, model=replace(model, args=args))


def _check_classes(net: nn.Module, config: Config, train: data.Images) -> None:
    """UserError unless the network gives each image one number for each class."""
    name, images = config.model.name, torch.zeros(2, *train.shape)
    try:
        with torch.no_grad():
            outputs = net(images)
    except RuntimeError as error:
        raise UserError(
            f"{name} cannot read images of shape {train.shape} "
            f"({str(error).splitlines()[0]}); set model.args or data.image_size"
        ) from error
    served = "classification needs [images, classes]"
    if not isinstance(outputs, Tensor):
        raise UserError(
            f"{name} returns a {type(outputs).__name__}, and {served}, one tensor; "
            "name a factory whose network returns that"
        )
    if outputs.ndim != 2:
        raise UserError(
            f"{name} has outputs of shape {list(outputs.shape)} for two images: only "
            f"classification is served here, which needs [images, classes]; name a network that "
            "classifies whole images"
        )
    if outputs.shape[1] != train.classes:
        argument = registry.class_argument(name, trust=config.model.trust_factory)
        remedy = (
            f"the data's {train.classes} classes come from the folders or labels of data.root; "
            f"leave model.args.{argument} out, or set it to {train.classes}"
            if argument
            else "give its factory an argument num_classes, so that it can be made for them"
        )
        raise UserError(
            f"{name} has {outputs.shape[1]} outputs, the data {train.classes} classes (only "
            f"classification is served); {remedy}"
        )
