"""The front door from Python: a search as a function call, its result as an object.

A network or images that are handed in as objects have no name that a later process could build
them by. The run's files say "user:CLASS" and "user" in place of one; `run` with the same objects
and the same `out` goes on, and `open_run(out, network)` or `point.load(network)` load its models.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from search import arguments

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from search.config import Config
    from search.data import Given
    from search.result import Result
    from search.tasks import Task


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended a search. What is finished is kept: `result` is the frontier so far."""

    result: Result


def run(
    model: nn.Module | Config | str | os.PathLike[str] = arguments.DEFAULT,
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
        config = arguments.task_config(task, model, images, arguments.options(out, trials, options))
    else:
        config = arguments.config(model, images, arguments.options(out, trials, options))
    named = not arguments.is_network(model) and train is None and task is None
    if named and record.nothing_to_do(config):  # neither Ray nor a base model for that, nor torch
        line = f"{config.out} is complete; nothing is left to do"
        console.print(line, highlight=False, markup=False)
        return _result(config, None)
    with interrupt.remembered():
        loader.validate(config)
        given = (
            arguments.given(model, images, config)
            if task is None
            else arguments.given_task(task, config)
        )
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

    from search import guardian, runner
    from search.backend import ray_log

    fresh = not ray.is_initialized()
    try:
        with ray_log.kept(config.out, console):
            place = runner.run(config, console, given=given)
    finally:
        if fresh:
            begun = guardian.descendants(os.getpid(), ray=True)
            ray.shutdown()
            guardian.kill(guardian.living(begun))  # agents, which would stay for a minute
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


def _console(console: Console | None, quiet: bool) -> Console:
    from rich.console import Console

    return console or Console(quiet=quiet)
