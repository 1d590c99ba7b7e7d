"""The Ray side of a trial: a re-used Tune worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from ray import tune
from ray.tune.experiment import Trial

from pruning.errors import UserError
from search.backend import cluster, preflight
from search.config import Config
from search.study import Candidate
from search.trial import FATAL, BaseModel, memory, trial


class TrialWorker(tune.Trainable):
    """Runs one trial after another in one process: data, base model and graph stay loaded."""

    _reports: Iterator[dict[str, Any]]
    _device = "cpu"

    def setup(
        self,
        config: dict[str, Any],
        settings: Config | None = None,
        base: BaseModel | None = None,
        open_context: trial.Open = trial.TrialContext.open,
        body: trial.Body = trial.run,
        job_of: Callable[[Mapping[str, Any]], Any] = Candidate.from_config,
    ) -> None:
        """job_of: what a trial's configuration asks of the body."""
        assert settings is not None
        assert base is not None
        try:
            preflight.check_joined(settings)
            self._device = cluster.worker_device(settings)
            work = open_context(settings, base, self._device)
            self._start = partial(body, work)
        except UserError as error:  # to be said by a report: Tune keeps a traceback at most
            self._start = partial(_refuse, error)
        self._job_of = job_of
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        try:
            report = next(self._reports, None)
        except UserError as error:  # a disk that is full or the like: the next would meet it too
            report = {"status": "failed", "reason": str(error), FATAL: True}
        except torch.AcceleratorError:
            raise  # Tune runs the trial again in a new process, where the GPU may be usable
        except Exception as error:
            report = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        if report is None:
            report = {"status": "failed", "reason": "the trial ended without a result"}
        return {**report, "done": "status" in report}

    def cleanup(self) -> None:
        self._reports = iter(())

    def _begin(self, config: dict[str, Any]) -> None:
        # the trial before, stopped early perhaps, lets go of its network before this one begins
        self._reports = iter(())
        memory.free(self._device)
        self._reports = self._start(self._job_of(config))


def trial_name(trial: Trial) -> str:
    """Tune's name for a trial is its name in the ledger."""
    return str(trial.config["trial_id"])


def _refuse(error: UserError, job: Any) -> Iterator[dict[str, Any]]:
    raise error
    yield  # makes it a generator, as a body is
