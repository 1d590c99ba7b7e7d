"""The front door from Python: a search as a function call, its result as an object.

A network or images that are handed in as objects have no name that a later process could build
them by. The run's files say "user:CLASS" and "user" in place of one; `run` with the same objects
and the same `out` goes on, and `open_run(out, network)` or `point.load(network)` load its models.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from search.config import Config
    from search.data import Given
    from search.result import Result
    from search.tasks import Task

Images = tuple[Any, Any, Any]
"""train, val and test, each in any form that `search.data.forms.images_of` takes, or None."""


DEFAULT = "digits"  # the configuration of a call without any


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended a search. What is finished is kept: `result` is the frontier so far."""

    result: Result


def run(
    model: nn.Module | Config | str | os.PathLike[str] = DEFAULT,
    train: Any = None,
    val: Any = None,
    test: Any = None,
    *,
    out: str | os.PathLike[str] | None = None,
    trials: int | None = None,
    task: Task | str | None = None,
    quiet: bool = False,
    console: Console | None = None,
    **options: Any,
) -> Result:
    """Find the accuracy/MACs frontier of a trained network; returns it with its models.

    model: a trained classifier (any nn.Module; it is copied and left as it is), or a Config, or the
    name or file of a configuration. train, val, test: labelled images, each a DataLoader, a Dataset
    of (image, label), a list of batches (x, y) or a pair of tensors (x float32 [N, C, H, W] as the
    network takes it, or uint8; y int64 [N]). val scores the trials and test the frontier; where
    they are None, a tenth of train is held out for each. A Dataset that augments is walked anew in
    each pass, and so should be the train split alone. Without train, `data` names the images, as in
    data={"name": "folder", "root": "photos"}.

    out: folder or URI of the run (default runs/NAME); the same call again goes on where it stopped,
    a larger `trials` extends it. options: every option of `slimfront search`, by section
    (finetune={"epochs": 5, "lr": 0.01}, search={"method": "peel"}) or dotted
    (**{"finetune.epochs": 5}). quiet: print nothing.

    task: what is slimmed where it is no classification: an object with the methods of
    `search.Task`, in place of model and images, or a name, as `slimfront search --task` takes it.

    Joins the Ray that this process is connected to and leaves it running; else starts one on this
    machine (or joins resources.address) and shuts it down at the end. Objects reach the workers
    through Ray: a class from a module must be importable on every node. Raises UserError, one line
    with the remedy, before anything is written; `Interrupted` on Ctrl-C, with the result so far.
    """
    from search import interrupt
    from search.config import loader
    from search.storage import record

    console, images = _console(console, quiet), (train, val, test)
    if isinstance(task, str):
        options, task = {**options, "task": task}, None
    if task is not None:
        config = _task_config(task, model, images, _options(out, trials, options))
    else:
        config = _config(model, images, _options(out, trials, options))
    named = not _is_network(model) and train is None and task is None
    if named and record.nothing_to_do(config):  # neither Ray nor a base model for that, nor torch
        line = f"{config.out} is complete; nothing is left to do"
        console.print(line, highlight=False, markup=False)
        return _result(config, None)
    with interrupt.remembered():
        loader.validate(config)
        given = _given(model, images, config) if task is None else _given_task(task, config)
        return _run(config, given, console)


def open_run(
    place: str | os.PathLike[str], model: nn.Module | None = None, *, trust: bool = False
) -> Result:
    """A run of an earlier session, finished or not; UserError where there is none.

    model: the whole network, where a program had handed it in. trust: let the run's
    package.module:factory run that package's code to build its networks.
    """
    from search.result import Result
    from search.storage import results

    results.read_record(os.fspath(place))
    return Result(os.fspath(place), model, trust)


def _run(config: Config, given: Given | None, console: Console) -> Result:
    import ray

    from search import runner
    from search.backend import ray_log

    fresh = not ray.is_initialized()
    try:
        with ray_log.kept(config.out, console):
            place = runner.run(config, console, given=given)
    finally:
        if fresh:
            ray.shutdown()
    result = _result(config, given)
    assert result.place == place
    if result.record.get("status") == "interrupted":
        stop = Interrupted()
        stop.result = result
        raise stop
    return result


def _result(config: Config, given: Given | None) -> Result:
    from search.result import Result

    network = given.network if given is not None else None
    return Result(config.out, network, config.model.trust_factory)


def _config(model: Any, images: Images, options: Mapping[str, Any]) -> Config:
    """The configuration that a call means; its local paths are absolute."""
    from search.config import Config, loader
    from search.data import USER

    network, name = _is_network(model), ""
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


def _task_config(task: Any, model: Any, images: Images, options: dict[str, Any]) -> Config:
    """The configuration of a task that was handed in; its local paths are absolute."""
    from search.config import loader

    if model != DEFAULT or any(part is not None for part in images):
        raise UserError("search.run got a task and a model or images; the task has its own")
    name = type(task).__name__
    tree: dict[str, Any] = {"out": f"runs/{name}"}
    _merge(tree, options)
    _merge(tree, {"task": f"user:{name}", "model": {"name": f"user:{name}"}})
    return loader.absolute(loader.from_dict(tree, "search.run"))


def _given_task(task: Any, config: Config) -> Given:
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


def _given(model: Any, images: Images, config: Config) -> Given | None:
    """The objects of a call, checked against each other; None where all have names."""
    if not _is_network(model) and images[0] is None:
        return None
    from search.data import given

    network = given.network_of(model) if _is_network(model) else None
    splits = None
    if images[0] is not None:
        splits = given.splits_of(*images, config.data, seed=config.seed, network=network)
    return given.Given(network, splits)


def _is_network(model: Any) -> bool:
    """Without torch there is none: importing it costs a second."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def _options(
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


def _console(console: Console | None, quiet: bool) -> Console:
    from rich.console import Console

    return console or Console(quiet=quiet)
