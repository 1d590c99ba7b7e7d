"""The base model as a Ray task: with a trial's resources, not the driver's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayTaskError

from pruning.errors import UserError
from pruning.models import files
from search.backend import cluster
from search.config import NAMED, Config
from search.data import Given
from search.storage import files as storage
from search.trial import BaseModel, base_model


def run(
    config: Config,
    before: Mapping[str, Any] | None,
    prepare: Callable[..., BaseModel],
    share: cluster.TrialResources,
    say: Callable[[str], None],
    meanwhile: Callable[[], object] = lambda: None,
    given: Given | None = None,
) -> BaseModel:
    """The base model by a task with a trial's resources; an earlier session's if there is one."""
    file = storage.open_uri(config.out) / base_model.FILE
    stored = before is not None and storage.exists(file)
    known = files.join(config.out, base_model.FILE) if stored else None
    has_weights = config.model.weights is not None or (given and given.network)
    if known is None and not has_weights and config.task in NAMED:
        say(f"training the base model {config.model.name} ({config.base.epochs:g} epochs)")
    try:
        # with .options() Ray would keep the process, and that its memory on the GPU
        task = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus)(prepare)
        result = task.remote(config, known, *(() if given is None else (given,)))
        meanwhile()
        base: BaseModel = ray.get(result)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
    return base if given is None else replace(base, given=given)


def prepare(config: Config, stored: str | None = None, given: Given | None = None) -> BaseModel:
    """`base_model.prepare` inside the task."""
    say = partial(print, flush=True)
    return base_model.prepare(config, stored, given, device=cluster.worker_device(config), say=say)
