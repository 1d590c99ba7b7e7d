"""The whole network of a search: built by name for the data, given its weights or trained."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import nn

from pruning.errors import UserError
from pruning.graph import plain
from pruning.models import checkpoint, read_tensors, weights
from search import tasks
from search.config import NAMED, Config
from search.data import Given
from search.tasks import Task, Workload


def build(
    config: Config,
    stored: str | None,
    given: Given,
    task: Task,
    work: Workload,
    say: Callable[[str], None],
    note: Callable[[str], None],
    refuse: Callable[[nn.Module], None],
) -> tuple[nn.Module, float]:
    """The network with its weights, and the seconds that its training took (0 with given ones).

    `stored`: the run's own base model; `given`: a network that a program handed in. `note` is told
    what the user should know; `refuse` may raise UserError before anything is trained.
    """
    torch.manual_seed(config.seed)
    net = tasks.network_of(task, config.task)
    trained = getattr(task, "trained", True)
    if stored is not None and given.network is not None and (given.task is None or trained):
        _check_same(net, stored, config)
        return net, 0.0
    if stored is not None:
        # the caller's network by the caller's consent, whatever the file names
        net = checkpoint.load(stored, base=net)
        _check_weights(net, lambda: tasks.network_of(task, config.task), config)
        return net, 0.0
    named = config.task in NAMED and given.task is None  # of `model` and `data`
    handed = given.network is not None and given.task is None
    whole = handed or (not named and trained)
    if named and config.model.weights is not None:
        metadata = weights.load_weights(
            net, config.model.weights, new_head=config.model.new_head, say=note
        )
        whole = "new_head" not in metadata
    work.check(net.eval())
    # before minutes of training or measuring
    refuse(net)
    if whole:
        return net, 0.0
    say(f"training the base model: {work.about.model}, {config.base.epochs:g} epochs")
    began = time.perf_counter()
    try:
        for epoch in work.epochs(net, config.base.recipe(), seed=config.seed):
            if round(epoch.epoch) % math.ceil(config.base.epochs / 5) == 0:
                say(f"base model: epoch {epoch.epoch:g}, loss {epoch.train_loss:.3f}")
    except FloatingPointError as error:
        raise UserError(f"the base model does not train: {error}, base.lr") from error
    return net, time.perf_counter() - began


def _check_same(net: nn.Module, stored: str, config: Config) -> None:
    """UserError where the network given is not the one that the run was begun with."""
    tensors, own = read_tensors(stored)[0], plain(net).state_dict()
    same = tensors.keys() == own.keys() and all(
        tensors[name].shape == t.shape and torch.equal(tensors[name], t) for name, t in own.items()
    )
    if not same:
        raise UserError(
            f"{config.out} holds a run of another network, or of other weights; "
            "give the same trained network to go on, or choose another out"
        )


def _check_weights(net: nn.Module, skeleton: Callable[[], nn.Module], config: Config) -> None:
    """UserError where the weights named are not those of the run's base model.

    Published ones are not fetched again: a node may have no way to them.
    """
    if config.model.weights is None or config.model.weights.startswith("torchvision:"):
        return
    named = skeleton()  # its own, as computed weights have other names than those they become
    given = weights.load_weights(named, config.model.weights, new_head=config.model.new_head)
    if "new_head" in given:  # it was trained, and all the others with it
        return
    before, now = net.state_dict(), plain(named).state_dict()
    if not all(torch.equal(tensor, now[name]) for name, tensor in before.items()):
        raise UserError(
            f"{config.out} holds a run of another model.weights; repeat its base model to go on, "
            "or choose another --out"
        )
