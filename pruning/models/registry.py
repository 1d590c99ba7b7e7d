"""Networks by name: small CIFAR networks, torchvision, timm, and factories the caller trusts.

torchvision takes a second to import, so only what needs it does.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NoReturn

from torch import nn

from pruning.errors import UserError

Factory = Callable[..., nn.Module]

TORCHVISION_ARGS: Mapping[str, Mapping[str, Any]] = {
    # the published weights of both expect it; training from scratch does not mind
    "googlenet": {"aux_logits": False, "init_weights": False, "transform_input": True},
    "inception_v3": {"aux_logits": False, "init_weights": False, "transform_input": True},
}
SOURCES = ("", "zoo", "torchvision", "timm")
USER = "user"  # of a network that a program handed in: its name says so, and builds nothing
# these make a library fetch or unpickle weights, so no configuration or model file may set them
WEIGHT_ARGS = {"weights", "weights_backbone", "pretrained", "pretrained_cfg", "checkpoint_path"}


CLASS_ARGS = ("num_classes", "n_classes", "classes", "nclasses", "num_labels", "n_labels")
"""What factories call the number of classes."""


def class_argument(spec: str, *, trust: bool = False) -> str | None:
    """The argument of a factory that takes the number of classes; None if none is known."""
    if not runs_code(spec):
        return "num_classes"
    try:
        taken = inspect.signature(_custom_factory(spec, trust)).parameters.values()
    except (TypeError, ValueError):  # of something built in
        return None
    names = {parameter.name for parameter in taken}
    found = next((name for name in CLASS_ARGS if name in names), None)
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken)
    return found or ("num_classes" if anything else None)


def resolve(spec: str, args: Mapping[str, Any] | None = None, *, trust: bool = False) -> nn.Module:
    """New network with random weights.

    `spec` is "resnet20" or "zoo:resnet20", "torchvision:resnet50", "timm:NAME", or
    "pkg.mod:factory", which imports that module and so needs `trust`. UserError for unknown names
    and arguments, and for "user:NAME", a network that only the program that made it has.
    """
    source, _, name = spec.rpartition(":")
    args = dict(args or {})
    if source in ("", "zoo"):
        factory = registry().get(name) or dense().get(name) or _unknown(spec)
    elif source == "torchvision":
        factory = _torchvision_factory(spec)
    elif source == "timm":
        factory = _timm_factory(spec)
    elif source == USER:
        raise UserError(
            f"{spec} was handed in by a program, no name builds it; from Python give it again, as "
            "in pruning.load(file, base=network) or result.points[0].load(network)"
        )
    else:
        factory = _custom_factory(spec, trust)
    if source in SOURCES and (taken := WEIGHT_ARGS & args.keys()):
        raise UserError(f"{spec} takes no {taken.pop()!r} here; name weights in model.weights")
    model = _call(factory, spec, args, "model.args")
    if source not in SOURCES and not isinstance(model, nn.Module) and hasattr(model, "model"):
        model = model.model()  # of a task, whose name a model file may have
    if not isinstance(model, nn.Module):
        raise UserError(f"{spec} made a {type(model).__name__}; the factory must return nn.Module")
    # published weights are found by it, and a slim version tells what it was made from
    setattr(model, "origin", (spec, args))  # noqa: B010  nn.Module types its attributes as modules
    return model


def made(spec: str, args: Mapping[str, Any], *, trust: bool = False) -> Any:
    """Whatever package.module:factory makes; UserError without `trust`, or where it fails."""
    if ":" not in spec:
        raise UserError(f"{spec!r} is no package.module:factory")
    return _call(_custom_factory(spec, trust), spec, args, "task_args")


def _call(factory: Callable[..., Any], spec: str, args: Mapping[str, Any], key: str) -> Any:
    own = spec.rpartition(":")[0] not in SOURCES
    try:
        return factory(**args)
    except (TypeError, ValueError) as error:
        raise UserError(f"cannot build {spec} with {args}: {error}; check {key}") from error
    except (Exception, SystemExit) as error:  # somebody else's code: whatever it meets
        if not own or isinstance(error, UserError):
            raise
        first = next(iter(str(error).splitlines()), "")
        raise UserError(
            f"{spec} ended with {type(error).__name__}: {first}; mend the factory"
        ) from error


def handed_in(model: nn.Module) -> str:
    """ "user:CLASS", by which files speak of a network that has no name to build it by."""
    return f"{USER}:{type(model).__name__}"


def runs_code(spec: str) -> bool:
    """Whether a network's name makes `resolve` import a module, and so needs consent."""
    return spec.rpartition(":")[0] not in (*SOURCES, USER)


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


def dense() -> dict[str, Factory]:
    """The zoo's networks that answer for every place of an image."""
    from pruning.models import dense as networks

    return {"unet": networks.UNet, "detector": networks.CenterDetector}


@cache
def names() -> tuple[str, ...]:
    """Every name `resolve` knows without timm and trust, the zoo's first."""
    import torchvision

    published = [
        name
        for part in (torchvision.models, *_dense_parts(torchvision.models))
        for name in torchvision.models.list_models(module=part)
    ]
    return (*registry(), *(f"torchvision:{name}" for name in published))


def _torchvision_factory(spec: str) -> Factory:
    if spec not in names():
        _unknown(spec)
    import torchvision

    name = spec.partition(":")[2]
    builder = torchvision.models.get_model_builder(name)
    own = dict(TORCHVISION_ARGS.get(name, {}))
    if "weights_backbone" in inspect.signature(builder).parameters:
        own["weights_backbone"] = None  # else it is fetched
    return lambda **args: builder(weights=None, **{**own, **args})


def _dense_parts(models: Any) -> tuple[Any, ...]:
    """Where torchvision's segmentation and detection networks are."""
    return models.segmentation, models.detection


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
        raise UserError(
            f"{spec} runs code of that module; --trust_factory true allows it (trust=True in "
            "Python), if you trust it"
        )
    module, _, name = spec.rpartition(":")
    try:
        with _working_folder():
            factory: Factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"cannot import {spec} ({error}); is it in this folder or on PYTHONPATH?"
        ) from error
    return factory


@contextmanager
def _working_folder() -> Iterator[None]:
    """Modules of the working folder are found, first while one is imported, later after all."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)


def _unknown(spec: str, known: list[str] | None = None) -> NoReturn:
    """Name the closest networks, of the same source if one is given."""
    source, _, name = spec.rpartition(":")
    known = known or [n for n in names() if source in ("", "zoo") or n.startswith(f"{source}:")]
    bare = {n.rpartition(":")[2].lower() for n in known}
    close = difflib.get_close_matches(name.lower(), bare, n=3)
    found = [n for c in close for n in known if n.rpartition(":")[2].lower() == c]
    hint = f"did you mean {', '.join(found)}?" if found else f"known are {', '.join(registry())}"
    raise UserError(f"there is no network {spec}; {hint}")
