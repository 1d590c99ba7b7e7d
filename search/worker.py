"""The Ray side of a trial: a re-used Tune worker, and the task that prepares the base model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from search import base as base_model
from search import cluster, trial
from search.base import Base
from search.candidate import Candidate
from search.options import Config

Open = Callable[[Config, Base, str], Any]
Body = Callable[[Any, Candidate], Iterator[dict[str, Any]]]
"""A trial: (what its worker opened once, what to run) → reports, the last with a `status`."""


class TrialWorker(tune.Trainable):
    """Runs one trial after another in one process: data, base model and graph stay loaded."""

    def setup(
        self,
        config: dict[str, Any],
        settings: Config | None = None,
        base: Base | None = None,
        open_workshop: Open = trial.Workshop.open,
        body: Body = trial.run,
    ) -> None:
        assert settings is not None
        assert base is not None
        self._body = body
        self._work = open_workshop(settings, base, cluster.worker_device(settings))
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._reports.close()  # type: ignore[attr-defined]
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        report = next(self._reports, None)
        if report is None:
            report = {"status": "failed", "reason": "the trial ended without a result"}
        return {**report, "done": "status" in report}

    def _begin(self, config: dict[str, Any]) -> None:
        self._reports = self._body(self._work, Candidate.from_config(config))


def prepare(config: Config, stored: str | None) -> Base:
    """The task that makes the base model: a trial's resources, not the driver's."""
    return base_model.prepare(config, stored, device=cluster.worker_device(config), say=_quiet)


def trial_name(trial: Trial) -> str:
    """Tune's name for a trial is its name in the ledger."""
    return str(trial.config["trial_id"])


def _quiet(text: str) -> None:
    print(text, flush=True)
