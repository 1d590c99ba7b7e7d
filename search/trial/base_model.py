"""The base model of a run: built or trained once, measured, traced; plain data for every trial."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning.errors import UserError
from pruning.graph import ChannelGraph, lattice, trace
from pruning.methods import Problem, State
from pruning.models import ModelInfo, checkpoint, files, registry, settle, weights
from pruning.training import finetune
from search.config import Config, SearchConfig, method_names
from search.data import splits as data
from search.study import PATH, limits
from search.trial import base_cache as states

CALIBRATION = 2048  # training images for BN statistics and method states
CALIBRATION_BATCH = 100  # the repair rotates its sampling with each batch: many small ones
SCORING_BATCH = 500
FILE = "base.safetensors"  # of a run


@dataclass(frozen=True)
class Base:
    """What the trials need of the base model: arrays and text only, shared by the object store.

    weights: the whole state dict; graph: JSON; val, test: top-1 as fractions; states: what each
    method measured, and measured_s: in how many seconds; seconds: spent on training (0 with given
    weights).
    """

    weights: Mapping[str, np.ndarray]
    graph: str
    info: ModelInfo
    val: float
    test: float
    states: Mapping[str, State]
    seconds: float
    measured_s: Mapping[str, float] = field(default_factory=dict)
    data: str = ""  # names the images that trials are trained and scored on
    notes: tuple[str, ...] = ()  # what the user should know of how it was made

    def channel_graph(self) -> ChannelGraph:
        return ChannelGraph.from_json(self.graph)

    def model(self, config: Config) -> nn.Module:
        """The whole network with its weights, on the CPU, in eval mode."""
        net = registry.resolve(self.info.model, self.info.args, trust=config.model.trust_factory)
        net.load_state_dict({name: tensor(array) for name, array in self.weights.items()})
        return net.eval()


def tensor(array: np.ndarray) -> Tensor:
    """A tensor of its own: arrays from the object store are read-only."""
    return torch.from_numpy(np.array(array, order="C"))


def measured_methods(search: SearchConfig) -> tuple[str, ...]:
    """The methods that the base model is measured for: those searched, and the seeds' own."""
    return tuple(dict.fromkeys((*method_names(search.method), *((PATH,) if search.seeds else ()))))


def problem(graph: ChannelGraph, search: SearchConfig) -> Problem:
    """The widths that this search may visit."""
    divisor = None if search.divisor == "auto" else search.divisor
    return Problem(graph, lattice(graph, divisor, search.min_ratio))


def prepare(
    config: Config,
    stored: str | None = None,
    *,
    device: str = "cpu",
    say: Callable[[str], None] = print,
    check: Callable[[Problem], object] | None = None,
) -> Base:
    """Load or train the base model, trace it, score it, and let the methods measure it.

    `stored`: file of an earlier session's base model, used instead. `check` may refuse the problem
    before anything is trained, besides the search's own limits. Raises UserError for whatever is
    wrong with data, weights or their fit; writes nothing.
    """
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        say(line)

    splits = data.load(config.data, config.seed)
    for line in splits.notes:
        note(line)
    train = splits.train.to(device)
    config = _fit_to_data(config, splits)
    net, seconds = _build(config, stored, train, device, say, note, check)
    settle(net, train.shape, device).eval()
    graph = trace(net, train.shape)
    val = states.top1(net, graph, splits.val.to(device), SCORING_BATCH)
    test = states.top1(net, graph, splits.test.to(device), SCORING_BATCH)
    subset = calibration(train, config.seed)
    measured = {}
    for name in measured_methods(config.search):
        say(f"measuring the base model for method {name}")
        measured[name] = states.measure(name, net, graph, subset)
    return Base(
        weights={name: t.detach().cpu().numpy() for name, t in net.state_dict().items()},
        graph=graph.to_json(),
        info=ModelInfo(
            model=config.model.name,
            args=dict(config.model.args),
            input_shape=train.shape,
            classes=train.classes,
            mean=train.mean,
            std=train.std,
            widths={group.name: group.channels for group in graph.groups},
            digest=graph.digest(),
        ),
        val=val,
        test=test,
        states={name: state for name, (state, _) in measured.items()},
        measured_s={name: spent for name, (_, spent) in measured.items()},
        data=states.fingerprint(splits.train, splits.val),
        seconds=seconds,
        notes=tuple(notes),
    )


def store(base: Base, out: str) -> None:
    """Write the base model into the run at `out`, as `base.safetensors`."""
    tensors = {name: tensor(array) for name, array in base.weights.items()}
    metadata = {"slimfront": str(checkpoint.FORMAT), "info": base.info.to_json()}
    files.write_tensors(files.join(out, FILE), tensors, metadata)


def facts(base: Base, problem: Problem) -> dict[str, Any]:
    """What run.json says of the base model."""
    return {
        "model": base.info.model,
        "digest": base.info.digest,
        "data": base.data,
        "macs": problem.cost.base_macs,
        "params": problem.cost.base_params,
        "top1_val": base.val,
        "top1_test": base.test,
        "train_s": base.seconds,
        "groups": [group.name for group in problem.graph.groups],
    }


def calibration(train: data.Images, seed: int) -> data.Images:
    """A fixed, shuffled part of the training images for statistics."""
    order = np.random.default_rng(seed).permutation(len(train))[:CALIBRATION]
    return train.subset(order)


def _build(
    config: Config,
    stored: str | None,
    train: data.Images,
    device: str,
    say: Callable[[str], None],
    note: Callable[[str], None],
    check: Callable[[Problem], object] | None,
) -> tuple[nn.Module, float]:
    torch.manual_seed(config.seed)
    net = registry.resolve(config.model.name, config.model.args, trust=config.model.trust_factory)
    if stored is not None:
        # the caller's network by the caller's consent, whatever the file names
        net = checkpoint.load(stored, base=net)
        _check_weights(net, config)
        return net, 0.0
    whole = False
    if config.model.weights is not None:
        given = weights.load_weights(
            net, config.model.weights, new_head=config.model.new_head, say=note
        )
        whole = "new_head" not in given
    _check_classes(net.eval(), config, train)
    # before minutes of training or measuring
    asked = problem(trace(net, train.shape), config.search)
    limits.limits(config.search, asked)
    if check is not None:
        check(asked)
    if whole:
        return net, 0.0
    say(f"training the base model: {config.model.name}, {config.base.epochs:g} epochs")
    began = time.perf_counter()
    for epoch in finetune(net, train, config.base.recipe(), seed=config.seed, device=device):
        if round(epoch.epoch) % math.ceil(config.base.epochs / 5) == 0:
            say(f"base model: epoch {epoch.epoch:g}, loss {epoch.train_loss:.3f}")
    return net, time.perf_counter() - began


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


def _fit_to_data(config: Config, splits: data.Splits) -> Config:
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
