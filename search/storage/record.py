"""run.json: what a run is, so that a later session can go on with it or refuse."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import reduce
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pruning.errors import UserError
from search.config import Config, refuse_secrets
from search.config import loader as configuration
from search.pareto import TOP1, CostAxis, Metric, Reference
from search.storage import checks, files, results
from search.storage.ledger import Ledger

PACKAGES = ("slimfront", "torch", "torchvision", "ray", "optuna", "pyarrow", "numpy", "moocore")
# what a later session may change: it does not touch what finished trials mean
FREE = (
    "trials",
    "out",
    "resources",
    "search.sampler",
    "search.stratify",
    "search.early_stopping",
    "search.patience",
    "search.patience_share",
    "search.screen",
    "search.final_points",
    "search.final_seeds",
    "search.final_epochs",
    "search.keep_checkpoints",
    "search.trial_timeout_s",
    "search.retry_failed",
    "search.warm_start",
    "data.root",
    "model.weights",
    "model.trust_factory",  # consent is each caller's own
)


STILL = ("out", "trials", "model.trust_factory", "search.retry_failed", "search.trial_timeout_s")
"""Keys by which a complete run can differ and stay complete."""

# what a search writes into its run, besides run.json and the lease of its driver
WRITTEN = (
    "base.safetensors",
    "latency.json",
    "trials",
    "trials.parquet",
    "checkpoints",
    "finals",
    "points",
    "frontier.parquet",
    "frontier.csv",
    "frontier.png",
    "report.html",
)


def check_free(run: files.Location) -> None:
    """UserError where a new run would overwrite what is in its folder."""
    for name in WRITTEN:
        if files.exists(run / name):
            raise UserError(
                f"{run} is no run and has {name}, which a search would overwrite; "
                "choose another --out"
            )


def check(record: Mapping[str, Any], config: Config) -> None:
    """UserError naming the keys in which `config` differs from the run that is there."""
    if lacking := [key for key in checks.RECORD if key not in record]:
        raise UserError(
            f"{config.out}/run.json lacks {lacking[0]}; copy the run again, or choose another --out"
        )
    before = configuration.from_dict(record["config"])
    changed = [
        key
        for key in configuration.changed_keys(before, config)
        if not any(key == free or key.startswith(free + ".") for free in FREE)
    ]
    if changed:
        said = [f"{key} ({_leaf(before, key)} there, {_leaf(config, key)} here)" for key in changed]
        raise UserError(
            f"{config.out} holds a run with another {', '.join(said)}; "
            "repeat its settings to go on, or choose another --out"
        )


def nothing_to_do(config: Config) -> bool:
    """Whether the run is there, complete, and asked for nothing else. Reads no model or image."""
    try:
        refuse_secrets(config)
        run = files.open_uri(config.out)
        found = results.find_record(run)
        if found is None or found.get("status") != "complete":
            return False
        before = configuration.from_dict(found["config"])
    except (UserError, OSError):
        return False  # the search itself says what is wrong
    changed = set(configuration.changed_keys(before, config))
    if any(not key.startswith("resources.") and key not in STILL for key in changed):
        return False
    rows = Ledger(config.out).rows()
    if config.search.retry_failed and any(row.status == "failed" for row in rows):
        return False
    points = results.exported_points(config.out, found)
    if points is None or not (config.trials <= before.trials or len(rows) >= config.trials):
        return False
    left = ["report.html", *(f"points/{p['rank']:03d}/model.safetensors" for p in points)]
    return all(files.exists(run / name) for name in left)


def _leaf(config: Config, key: str) -> Any:
    return reduce(getattr, key.split("."), config)


def check_data(record: Mapping[str, Any], data: str, config: Config) -> None:
    """UserError where a run is to go on with other images; data: their fingerprint."""
    if record["base"].get("data", data) != data:
        raise UserError(
            f"{config.out} holds a run on other images than those of data.root; "
            "name the folder of the same ones, or choose another --out"
        )


def check_base(record: Mapping[str, Any], base: Mapping[str, Any], config: Config) -> None:
    """UserError where a run's base model is not the one that is here; base: as for `create`.

    Rows hold widths by group: with other groups or MACs they would mean other networks.
    """
    before = record["base"]
    if any(before.get(key, base[key]) != base[key] for key in ("groups", "macs")):
        raise UserError(
            f"{config.out} holds a run of another network (its channel groups or MACs differ); "
            "give the same network to go on, or choose another --out"
        )


def check_warm_start(config: Config) -> None:
    """UserError where the run to learn from searched another network."""
    if config.search.warm_start is None:
        return
    other = results.find_record(files.open_uri(config.search.warm_start))
    if other is None:
        raise UserError(
            f"search.warm_start: {config.search.warm_start} holds no run.json; "
            "name the folder of an earlier run"
        )
    before, now = configuration.from_dict(other["config"]).model, config.model
    if (before.name, dict(before.args)) != (now.name, dict(now.args)):
        raise UserError(
            f"search.warm_start: {config.search.warm_start} searched {before.name}, "
            f"not {now.name}; name a run of the same network"
        )


def create(
    config: Config, base: Mapping[str, Any], metric: Metric = TOP1, axis: CostAxis | None = None
) -> dict[str, Any]:
    """A new record; `base`: score and cost of the base model; axis: what is saved, else MACs."""
    axis = axis or CostAxis("macs", base["macs"])
    found = Reference.of(axis, metric, base["score_val"])
    cost, score = found.cost, metric.gain(found.gain)
    if config.search.reference_point is not None:
        cost, score = config.search.reference_point
        _check_reference(score, metric)
    return {
        "format": results.FORMAT,
        "status": "running",
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": config.seed,
        "base_macs": base["macs"],
        "base_params": base["params"],
        "metric": metric.to_json(),
        "objective": axis.to_json(),
        "base_score_val": base["score_val"],
        "base_score_test": base["score_test"],
        "base": dict(base),
        "reference_point": {"cost": cost, "score": score, "best": metric.gain(found.best)},
        "config": configuration.to_dict(config),
        "versions": {name: _version(name) for name in PACKAGES}
        | {"python": platform.python_version()},
        "host": platform.node(),
    }


def update(run: files.Location, record: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Write a record with changes; returns it."""
    changed = {**record, **changes}
    changed["updated_at"] = datetime.now(UTC).isoformat(timespec="seconds")
    files.write(run / "run.json", json.dumps(changed, indent=1).encode())
    return changed


def reference(record: Mapping[str, Any]) -> Reference:
    point, metric = record["reference_point"], results.metric_of(record)
    gain, best = metric.gain(point["score"]), metric.gain(point.get("best", 1.0))
    best = max(best, gain + 1e-12)
    return Reference(float(point["cost"]), gain, best, metric, results.axis_of(record))


def _check_reference(score: float, metric: Metric) -> None:
    """UserError where a reference point is no score, or leaves none that is better."""
    if metric.best is not None and metric.better(score, metric.best):
        raise UserError(
            f"search.reference_point {score:g}: no {metric.name} is better than "
            f"{metric.show(metric.best)}; give one that knowing nothing would have"
        )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
