"""Networks by name: small CIFAR networks, torchvision, timm, and factories the caller trusts.

torchvision takes a second to import, so only what needs it does.
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NoReturn

from torch import Tensor, nn

from pruning.errors import UserError
from pruning.models import files

Factory = Callable[..., nn.Module]

TORCHVISION_ARGS: Mapping[str, Mapping[str, Any]] = {
    # the published weights of both expect it; training from scratch does not mind
    "googlenet": {"aux_logits": False, "init_weights": False, "transform_input": True},
    "inception_v3": {"aux_logits": False, "init_weights": False, "transform_input": True},
}
SOURCES = ("", "zoo", "torchvision", "timm")
# these make a library fetch or unpickle weights, so no configuration or model file may set them
WEIGHT_ARGS = {"weights", "weights_backbone", "pretrained", "pretrained_cfg", "checkpoint_path"}


def resolve(spec: str, args: Mapping[str, Any] | None = None, *, trust: bool = False) -> nn.Module:
    """New network with random weights.

    `spec` is "resnet20" or "zoo:resnet20", "torchvision:resnet50", "timm:NAME", or
    "pkg.mod:factory", which imports that module and so needs `trust`. UserError for unknown names
    and arguments.
    """
    source, _, name = spec.rpartition(":")
    args = dict(args or {})
    if source in ("", "zoo"):
        factory = registry().get(name) or _unknown(spec)
    elif source == "torchvision":
        factory = _torchvision_factory(spec)
    elif source == "timm":
        factory = _timm_factory(spec)
    else:
        factory = _custom_factory(spec, trust)
    if source in SOURCES and (taken := WEIGHT_ARGS & args.keys()):
        raise UserError(f"{spec} takes no {taken.pop()!r} here; name weights in model.weights")
    try:
        model = factory(**args)
    except (TypeError, ValueError) as error:
        raise UserError(f"cannot build {spec} with {args}: {error}; check model.args") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"{spec} made a {type(model).__name__}; the factory must return nn.Module")
    if source == "torchvision":
        setattr(model, "spec", spec)  # noqa: B010  load_weights finds published weights by it
    return model


def runs_code(spec: str) -> bool:
    """Whether a network's name makes `resolve` import a module, and so needs consent."""
    return spec.rpartition(":")[0] not in SOURCES


def registry() -> dict[str, Factory]:
    """The zoo's own networks by name. All take `num_classes` and `in_channels`."""
    from pruning.models import cifar

    resnets: dict[str, Factory] = {
        f"resnet{depth}": partial(cifar.cifar_resnet, depth) for depth in (20, 32, 44, 56, 110)
    }
    return resnets | {
        "vgg16_bn": cifar.vgg16_bn,
        "mobilenet_v2": cifar.mobilenet_v2,
        "densenet40": cifar.densenet40,
        "digits": cifar.digits,
    }


@cache
def names() -> tuple[str, ...]:
    """Every name `resolve` knows without timm and trust, the zoo's first."""
    import torchvision

    published = torchvision.models.list_models(module=torchvision.models)
    return (*registry(), *(f"torchvision:{name}" for name in published))


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> dict[str, str]:
    """Load all weights of `model` from a safetensors file, in place; returns the file's metadata.

    Floats of any width become the model's. "torchvision:DEFAULT" or "torchvision:IMAGENET1K_V2"
    name published weights of a torchvision network. UserError where file and network do not match;
    the model is then as it was.
    """
    source, _, name = os.fspath(path).partition(":")
    if source == "torchvision":
        state, metadata = _published_weights(model, name)
    else:
        state, metadata = files.read_tensors(path)
    _check_match(model, state, path)
    # a plain dict has no version, so BatchNorm fills in a missing num_batches_tracked
    model.load_state_dict(dict(state))
    return metadata


def _torchvision_factory(spec: str) -> Factory:
    if spec not in names():
        _unknown(spec)
    import torchvision

    name = spec.partition(":")[2]
    builder = torchvision.models.get_model_builder(name)
    return lambda **args: builder(weights=None, **{**TORCHVISION_ARGS.get(name, {}), **args})


def _timm_factory(spec: str) -> Factory:
    try:
        import timm
    except ImportError as error:
        raise UserError(f"{spec} needs timm; pip install 'slimfront[timm]'") from error
    name = spec.partition(":")[2]
    if not timm.is_model(name):  # also keeps out names that would load from the hub or a folder
        _unknown(spec, [f"timm:{known}" for known in timm.list_models()])
    return partial(timm.create_model, name, pretrained=False)


def _custom_factory(spec: str, trust: bool) -> Factory:
    if not trust:
        raise UserError(f"{spec} runs code of that module; pass trust=True if you trust it")
    module, _, name = spec.rpartition(":")
    try:
        factory: Factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"cannot import {spec} ({error}); is it on PYTHONPATH?") from error
    return factory


def _unknown(spec: str, known: list[str] | None = None) -> NoReturn:
    """Name the closest networks, of the same source if one is given."""
    source, _, name = spec.rpartition(":")
    known = known or [n for n in names() if source in ("", "zoo") or n.startswith(f"{source}:")]
    bare = {n.rpartition(":")[2].lower() for n in known}
    close = difflib.get_close_matches(name.lower(), bare, n=3)
    found = [n for c in close for n in known if n.rpartition(":")[2].lower() == c]
    hint = f"did you mean {', '.join(found)}?" if found else f"known are {', '.join(registry())}"
    raise UserError(f"there is no network {spec}; {hint}")


def _published_weights(model: nn.Module, name: str) -> tuple[Mapping[str, Tensor], dict[str, str]]:
    import torchvision

    spec = str(getattr(model, "spec", ""))
    if not spec:
        raise UserError(f"weights torchvision:{name} fit networks named torchvision:… only")
    known = torchvision.models.get_model_weights(spec.partition(":")[2])
    if name not in known.__members__:
        raise UserError(f"{spec} has no weights {name}; known are {', '.join(known.__members__)}")
    weights = known[name]
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"cannot download {weights.url} ({error}); "
            "fetch it elsewhere into $TORCH_HOME/hub/checkpoints"
        ) from error
    heads = ("aux1", "aux2", "AuxLogits")
    absent = tuple(f"{head}." for head in heads if getattr(model, head, None) is None)
    tensors = {
        # torchvision's DenseNet weights carry the names of an older release
        re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d)", r"\1\2", key): tensor
        for key, tensor in state.items()
        if not key.startswith(absent)
    }
    scores = weights.meta.get("_metrics", {}).get("ImageNet-1K", {})
    crop = weights.transforms()
    metadata = {
        "model": spec,
        "dataset": "imagenet",
        "mean": ",".join(map(str, crop.mean)),
        "std": ",".join(map(str, crop.std)),
        "test_top1": str(scores.get("acc@1", "")),
    }
    return tensors, metadata


def _check_match(
    model: nn.Module, state: Mapping[str, Tensor], path: str | os.PathLike[str]
) -> None:
    """UserError if a name or a shape differs between file and network."""
    own = model.state_dict()
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    foreign = [n for n in state if n not in own]
    if missing or foreign:
        what = f"lacks {missing[0]}" if missing else f"has a foreign {foreign[0]}"
        others = len(missing) + len(foreign) - 1
        raise UserError(
            f"{path} {what} (and {others} more differ); check model.name and model.args"
        )
    wrong = [n for n, tensor in state.items() if tensor.shape != own[n].shape]
    if not wrong:
        return
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    only_head = {n.rpartition(".")[0] for n in wrong} == {layers[-1]}
    if only_head and all(state[n].shape[1:] == own[n].shape[1:] for n in wrong):
        raise UserError(
            f"{path} has {len(state[wrong[0]])} classes, the network {len(own[wrong[0]])}; "
            f"set model.args.num_classes to {len(state[wrong[0]])}"
        )
    name = wrong[0]
    raise UserError(
        f"{path} has {name} of shape {list(state[name].shape)}, "
        f"the network {list(own[name].shape)}; "
        "check model.name and model.args"
    )
