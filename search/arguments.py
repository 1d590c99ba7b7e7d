"""What a call of `search.run` means: a configuration, and the objects that have no name."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.errors import UserError

if TYPE_CHECKING:
    from search.config import Config
    from search.data import Given

DEFAULT = "digits"  # the configuration of a call without any
Images = tuple[Any, Any, Any]
"""train, val and test, each in any form that `search.data.forms.images_of` takes, or None."""


def config(model: Any, images: Images, options: Mapping[str, Any]) -> Config:
    """The configuration that a call means; its local paths are absolute."""
    from search.config import Config, loader
    from search.data import USER

    network, name = is_network(model), ""
    if network:
        from search.data import given

        name = given.name_of(model)
        tree: dict[str, Any] = {"out": f"runs/{name.partition(':')[2]}"}
    elif isinstance(model, Config):
        tree = loader.to_dict(model)
    elif isinstance(model, str | os.PathLike):
        source = os.fspath(model)
        tree = {"out": f"runs/{Path(source).stem}"} | loader.read(source)
    else:
        raise UserError(
            f"search.run got a {type(model).__name__}; give a trained nn.Module, a Config, or the "
            f"name of a configuration ({', '.join(loader.packaged())})"
        )
    has_images = images[0] is not None
    if not has_images and any(part is not None for part in images):
        raise UserError("search.run got val or test without train; give all three, or data={…}")
    if network and not has_images and "name" not in options.get("data", {}):
        raise UserError(
            "search.run needs images for the network: train, val and test, or "
            'data={"name": "folder", "root": "photos"}'
        )
    _merge(tree, options)
    if network:
        _merge(tree, {"model": {"name": name}})
    if has_images:
        _merge(tree, {"data": {"name": USER, "root": None, "image_size": None}})
    config = loader.absolute(loader.from_dict(tree, "search.run"))
    if network and config.model.weights is not None:
        raise UserError("the network that was given has its weights; leave model.weights out")
    return config


def task_config(task: Any, model: Any, images: Images, options: dict[str, Any]) -> Config:
    """The configuration of a task that was handed in; its local paths are absolute."""
    from search.config import loader

    if model != DEFAULT or any(part is not None for part in images):
        raise UserError("search.run got a task and a model or images; the task has its own")
    name = type(task).__name__
    tree: dict[str, Any] = {"out": f"runs/{name}"}
    _merge(tree, options)
    _merge(tree, {"task": f"user:{name}", "model": {"name": f"user:{name}"}})
    return loader.absolute(loader.from_dict(tree, "search.run"))


def given_task(task: Any, config: Config) -> Given:
    """UserError where an object is no task, or cannot be sent to other processes."""
    from ray import cloudpickle

    from search import tasks
    from search.data import given

    checked = tasks.check(task, config.task)
    network = tasks.network_of(checked, config.task)
    try:
        cloudpickle.dumps(task)
    except Exception as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{type(task).__name__} cannot be sent to the workers ({first}); open files, locks and "
            'the like inside its methods, or name it as task="package.module:factory"'
        ) from error
    return given.Given(network=network, task=checked)


def given(model: Any, images: Images, config: Config) -> Given | None:
    """The objects of a call, checked against each other; None where all have names."""
    if not is_network(model) and images[0] is None:
        return None
    from search.data import given

    network = given.network_of(model) if is_network(model) else None
    splits = None
    if images[0] is not None:
        splits = given.splits_of(*images, config.data, seed=config.seed, network=network)
    return given.Given(network, splits)


def is_network(model: Any) -> bool:
    """Without torch there is none: importing it costs a second."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def options(
    out: str | os.PathLike[str] | None, trials: int | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Options as the nested keys of a configuration file."""
    tree: dict[str, Any] = {}
    for key, value in options.items():
        *sections, leaf = key.split(".")
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = dataclasses.asdict(value)
        for section in reversed(sections):
            leaf, value = section, {leaf: value}
        _merge(tree, {leaf: value})
    if out is not None:
        tree["out"] = os.fspath(out)
    if trials is not None:
        tree["trials"] = trials
    return tree


def _merge(tree: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Lay nested keys over others, in place; model.args and the like are replaced as a whole."""
    for key, value in more.items():
        below = tree.get(key)
        if isinstance(value, Mapping) and isinstance(below, dict) and key != "args":
            _merge(below, value)
        else:
            tree[key] = dict(value) if isinstance(value, Mapping) else value
