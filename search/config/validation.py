"""Checks of a configuration, made once, at the boundary; messages name the key and a remedy."""

from __future__ import annotations

import math
import os

from pruning.errors import UserError
from search.config import notation, quantity
from search.config.schema import Config, RecipeConfig, ResourceConfig, SearchConfig
from search.data import spec

LIMITS = ("max_macs", "min_macs", "max_params", "max_latency_ms")


def validate(config: Config) -> None:
    """Raise UserError where values cannot work, alone or together. Reads no images or weights."""
    _need(config.trials >= 1, "trials", config.trials, "1 or more")
    _need(0 <= config.seed < 2**32, "seed", config.seed, "from 0 to 4294967295")
    _need(bool(config.out.strip()), "out", repr(config.out), "a folder or URI for the run")
    built_in = ":" not in config.task
    _need(bool(config.task.strip()), "task", repr(config.task), "a task's name")
    _validate_search(config.search, shares=built_in)
    _validate_limits(config.search)
    _need(config.latency.batch >= 1, "latency.batch", config.latency.batch, "1 or more")
    _need(config.latency.threads >= 1, "latency.threads", config.latency.threads, "1 or more")
    _validate_resources(config.resources)
    _validate_paths(config)
    _need(config.base.epochs > 0, "base.epochs", config.base.epochs, "above 0")
    _need(config.base.distill == 0, "base.distill", config.base.distill, "0: it has no teacher")
    _validate_model(config.model.name)
    spec.check(config.data)
    _validate_recipe(config.base, "base")
    _validate_recipe(config.finetune, "finetune")
    method_names(config.search.method)


def method_names(spec: str, key: str = "search.method") -> tuple[str, ...]:
    """Pruning methods in a comma list, or all of them; raises UserError, naming `key`."""
    from pruning import methods

    known = tuple(methods.names())
    if spec.strip() == "all":
        return known
    names = tuple(dict.fromkeys(notation.words(spec))) or ("",)
    for name in names:
        _need(name in known, key, repr(name), f"one of {', '.join(known)}, or all")
    return names


def is_local(path: str) -> bool:
    """Whether a path is a local file or folder, not an address or published weights."""
    return "://" not in path and not path.startswith("torchvision:")


def _validate_search(s: SearchConfig, shares: bool) -> None:
    ratio, offset = s.min_ratio, s.offset_range
    _need(0 < ratio < 1, "search.min_ratio", ratio, "a share above 0 and below 1, as in 0.1")
    _need(0 <= offset < 1, "search.offset_range", offset, "a share from 0 to below 1, as in 0.5")
    _need(s.divisor == "auto" or s.divisor >= 1, "search.divisor", s.divisor, "auto, or 1 or more")
    wait, grow = s.patience, s.patience_share
    _need(wait is None or wait >= 1, "search.patience", wait, "1 trial or more, or null")
    _need(0 <= grow < 1, "search.patience_share", grow, "a share from 0 to below 1, as in 0.002")
    _need(s.screen >= 0, "search.screen", s.screen, "0 (off) or more")
    _need(s.final_points >= 0, "search.final_points", s.final_points, "0 (no limit) or more")
    _need(s.final_seeds >= 0, "search.final_seeds", s.final_seeds, "0 or more")
    for key in ("final_epochs", "trial_timeout_s"):
        value = getattr(s, key)
        _need(value is None or value > 0, f"search.{key}", value, "above 0, or null")
    if s.reference_point is not None:
        cost, score = s.reference_point
        wanted = "[a cost above 0, a score: of shares from 0 to below 1]"
        good = cost > 0 and math.isfinite(score) and (0 <= score < 1 or not shares)
        _need(good, "search.reference_point", list(s.reference_point), wanted)


def _validate_model(name: str) -> None:
    """The zoo's names; others take an import of what they name."""
    if ":" in name.removeprefix("zoo:"):
        return
    from pruning.models import registry

    if name.removeprefix("zoo:") not in registry.registry():
        registry.resolve(name)  # says which names are close


def _validate_recipe(options: RecipeConfig, part: str) -> None:
    try:
        options.recipe()  # imports torch
    except UserError as error:
        raise UserError(f"{part}.{error}") from None


def _validate_limits(s: SearchConfig) -> None:
    given = {key: getattr(s, key) for key in LIMITS}
    found = {k: quantity.parse(v, f"search.{k}") for k, v in given.items() if v is not None}
    low, high = found.get("min_macs"), found.get("max_macs")
    if low and high and low.relative == high.relative and low.value >= high.value:
        raise UserError(
            f"search.min_macs {s.min_macs} is not below search.max_macs {s.max_macs}; lower it"
        )


def _validate_resources(r: ResourceConfig) -> None:
    wanted = "0, a whole number, or 1/n such as 0.5 or 0.25; other shares leave a part of it idle"
    gpus = r.gpus_per_trial
    _need(gpus is None or _divides(gpus), "resources.gpus_per_trial", gpus, wanted)
    _need(r.cpus_per_trial > 0, "resources.cpus_per_trial", r.cpus_per_trial, "above 0, as in 1")
    most, share = r.max_concurrent, r.memory_fraction
    _need(most is None or most >= 1, "resources.max_concurrent", most, "1 or more, or null")
    good = share is None or 0 < share <= 1
    _need(good, "resources.memory_fraction", share, "a share above 0 and up to 1, or null")
    gb = r.memory_gb
    good = gb is None or 0 < gb < math.inf
    _need(good, "resources.memory_gb", gb, "gigabytes above 0, as in 4, or null")


def _divides(gpus: float) -> bool:
    if 0 < gpus < 1:
        return abs(1 / gpus - round(1 / gpus)) < 0.05  # 0.33 is meant to be a third
    return gpus >= 0 and gpus == int(gpus)


def refuse_secrets(config: Config) -> None:
    """UserError where one of the addresses has a password or a key in it."""
    from pruning.models import files  # imports torch

    storage_path = config.resources.storage_path
    given = (config.out, config.data.root, config.model.weights, config.search.warm_start)
    for address in filter(None, (*given, storage_path)):
        files.refuse_secrets(address)


def _validate_paths(config: Config) -> None:
    refuse_secrets(config)
    images = config.data
    if images.name not in ("digits", spec.USER) and images.root is None:
        raise UserError(
            f"data.root is missing; name the folder of the {images.name} images, "
            "as in --data.root data"
        )
    if images.root is not None and is_local(images.root) and not images.download:
        missing = not os.path.isdir(images.root)  # False too for names that no system takes
        _need(not missing, "data.root", images.root, "a folder that is there; correct the path")
    weights, warm, out = config.model.weights, config.search.warm_start, config.out
    if weights is not None and is_local(weights) and not os.path.isfile(weights):
        raise UserError(
            f"model.weights: there is no file {weights}; correct the path, "
            "or set null to train a base model"
        )
    if warm is not None and is_local(warm) and not os.path.isfile(os.path.join(warm, "run.json")):
        raise UserError(
            f"search.warm_start: {warm} holds no run.json; name the folder of an earlier run"
        )
    if is_local(out) and os.path.exists(out) and not os.path.isdir(out):
        raise UserError(f"out: {out} is a file; name a folder")


def _need(good: bool, key: str, value: object, wanted: str) -> None:
    if not good:
        raise UserError(f"{key} {value}: must be {wanted}")
