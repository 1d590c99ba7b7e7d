"""Tasks by name or as objects: built in, package.module:factory with consent, handed in."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from pruning.errors import UserError
from pruning.models import registry
from search.config import CLASSIFICATION, NAMED, SEGMENTATION, Config
from search.data import Given
from search.pareto import Metric
from search.tasks import classification
from search.tasks.classification import Classification, ClassificationWorkload
from search.tasks.own import OwnWorkload
from search.tasks.task import NEEDED, Task
from search.tasks.workload import Workload

DOUBT = (
    "is this the score you know? If not, look at data.mean and data.std, data.image_size, and the "
    "order of the classes"
)
"""What to ask where the weights are the user's."""


def load(config: Config, given: Given | None = None) -> Task:
    """The task of a configuration, its data read. UserError for what cannot be one."""
    given = given or Given()
    if given.task is not None:
        return check(given.task, config.task)
    if config.task == CLASSIFICATION:
        return Classification(config, given)
    if config.task in NAMED:
        return check(_built_in(config, given.network), config.task)
    return check(_made(config), config.task)


def open_task(task: Task, config: Config, device: str) -> Workload:
    """A task on a device."""
    if isinstance(task, Classification):
        return ClassificationWorkload(task, device)
    maps = config.finetune.distill_maps
    return OwnWorkload(task, config.task, config.task_args, device, config.seed, maps)


def skeleton(config: Config, args: Mapping[str, Any], given: Given) -> nn.Module:
    """The whole network, for weights that are known: no image is read for it."""
    if config.task in NAMED and given.task is None:
        return classification.skeleton(config, args, given)
    return network_of(load(config, given), config.task)


def network_of(task: Task, name: str) -> nn.Module:
    """A task's network on the CPU in eval mode; UserError where its code gives none."""
    try:
        found = task.model()
    except UserError:
        raise
    except Exception as error:  # somebody else's code
        first = next(iter(str(error).splitlines()), "")
        raise UserError(f"{name}: model() raised {type(error).__name__}: {first}") from error
    if not isinstance(found, nn.Module):
        raise UserError(f"{name}: model() gave a {type(found).__name__}; return an nn.Module")
    try:
        return copy.deepcopy(found).cpu().eval()
    except Exception as error:
        raise UserError(
            f"{name}: {type(found).__name__} cannot be copied ({error}); keep what cannot be "
            "(files, locks, generators) out of the module's attributes"
        ) from error


def check(task: Any, name: str) -> Task:
    """UserError where an object lacks what a task has."""
    lacking = [each for each in NEEDED if not hasattr(task, each)]
    if lacking:
        raise UserError(
            f"{name} made a {type(task).__name__} without {lacking[0]}; a task has "
            f"{', '.join(NEEDED)} (see docs/your-task.md)"
        )
    if not isinstance(task.metric, Metric):
        raise UserError(
            f"{name}: metric is a {type(task.metric).__name__}; give search.Metric(name, unit, "
            "direction)"
        )
    found: Task = task
    return found


def _built_in(config: Config, network: nn.Module | None) -> Any:
    from search.tasks import scenes, segmentation

    made = {
        SEGMENTATION: segmentation.of_files,
        "scenes-segmentation": scenes.segmentation,
        "scenes-detection": scenes.detection,
    }
    return made[config.task](config, network)


def _made(config: Config) -> Any:
    if ":" not in config.task:
        raise UserError(
            f"there is no task {config.task}; known are {', '.join(NAMED)}, or name one of your "
            "own, package.module:factory"
        )
    trust = config.model.trust_factory
    return registry.made(config.task, config.task_args, trust=trust)
