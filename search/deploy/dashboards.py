"""A run for other people's dashboards: an Optuna study, an Optuna journal, MLflow runs."""

from __future__ import annotations

import math
import os
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pruning.errors import UserError
from pruning.models import files
from search.pareto import TOP1, CostAxis, Metric
from search.storage import Results, Row

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage

JOURNAL = "optuna.journal"


def study_of(
    rows: Sequence[Row],
    axis: CostAxis,
    name: str = "slimfront",
    storage: BaseStorage | None = None,
    metric: Metric = TOP1,
) -> Study:
    """The Optuna study of ledger rows: score on val, share of what the base costs (minimised).

    Ranges of the parameters are those seen in the rows: a ledger does not store the space.
    """
    import optuna
    from optuna.exceptions import ExperimentalWarning
    from optuna.study import StudyDirection
    from optuna.trial import TrialState, create_trial

    states = {"complete": TrialState.COMPLETE, "failed": TrialState.FAIL}
    ranges = distributions([row.proposal.get("params", {}) for row in rows])
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        minimise, maximise = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE
        ways = [maximise if metric.rises else minimise, minimise]
        study = optuna.create_study(storage=storage, study_name=name, directions=ways)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(["score_val", f"{axis.name}_share"])
        for row in rows:
            done = row.status == "complete" and row.score_val is not None
            params = {k: v for k, v in row.proposal.get("params", {}).items() if k in ranges}
            state = states.get(row.status, TrialState.PRUNED)
            trial = create_trial(
                state=state if done or state != TrialState.COMPLETE else TrialState.FAIL,
                values=[row.score_val or 0.0, axis.share(row)] if done else None,
                params=params,
                distributions={key: ranges[key] for key in params},
                user_attrs=_attributes(row),
            )
            study.add_trial(trial)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return study


def distributions(params: Iterable[Mapping[str, Any]]) -> dict[str, BaseDistribution]:
    """The smallest ranges that hold all values; parameters that never vary are left out."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    seen: dict[str, list[Any]] = {}
    for given in params:
        for name, value in given.items():
            seen.setdefault(name, []).append(value)
    found: dict[str, BaseDistribution] = {}
    for name, values in seen.items():
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        if numbers and min(values) < max(values):
            found[name] = FloatDistribution(min(values), max(values))
        elif not numbers and len(set(map(str, values))) > 1:
            choices = sorted(set(values), key=str)
            found[name] = CategoricalDistribution(choices)
    return found


def write_journal(run: Results) -> str:
    """RUN/optuna.journal, for `optuna-dashboard`; replaces an older one. Returns its address."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    with tempfile.TemporaryDirectory(prefix="slimfront-") as scratch:
        path = os.path.join(scratch, JOURNAL)
        storage = JournalStorage(JournalFileBackend(path))
        name = os.path.basename(run.place.rstrip("/")) or "slimfront"
        study_of(run.rows, _axis(run), name, storage, run.metric)
        with open(path, "rb") as file:
            data = file.read()
    place = files.join(run.place, JOURNAL)
    files.write(place, data)
    return place


def _axis(run: Results) -> CostAxis:
    if "base_macs" not in run.record:
        raise UserError(f"{run.place}/run.json lacks base_macs; copy the run again")
    return run.axis


def log_mlflow(run: Results) -> str:
    """One MLflow run for each trial, at MLFLOW_TRACKING_URI; those already there are left alone.

    Returns the experiment's name. UserError where mlflow is not installed.
    """
    try:
        import mlflow
    except ImportError:
        raise UserError("mlflow is not installed; pip install mlflow-skinny") from None

    name = f"slimfront {run.place}"
    try:
        experiment = mlflow.set_experiment(name).experiment_id
        client = mlflow.MlflowClient()
        stored = {r.info.run_name for r in client.search_runs([experiment], max_results=50_000)}
        for row in run.rows:
            if row.trial_id in stored:
                continue
            with mlflow.start_run(run_name=row.trial_id):
                mlflow.log_params(_attributes(row) | dict(row.proposal.get("params", {})))
                mlflow.log_metrics(_metrics(row))
    except mlflow.exceptions.MlflowException as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"MLflow refuses: {first}; check MLFLOW_TRACKING_URI") from error
    return name


def _attributes(row: Row) -> dict[str, Any]:
    names = ("trial_id", "status", "reason", "method", "macs", "params", "epochs", "checkpoint")
    found = {name: getattr(row, name) for name in names}
    return found | {"widths": list(row.widths), "source": row.proposal.get("source", "")}


def _metrics(row: Row) -> dict[str, float]:
    costs, times = "macs params predicted_ms measured_ms", "prune_s finetune_s wall_s"
    names = f"{costs} score_pruned score_repaired score_val {times}".split()
    values = {name: getattr(row, name) for name in names}
    return {n: float(v) for n, v in values.items() if v is not None and math.isfinite(v)}
