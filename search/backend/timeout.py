"""The time limit of a trial, kept by the driver: a worker that hangs cannot watch itself."""

from __future__ import annotations

import time
from collections.abc import MutableMapping
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial

from search.backend.searcher import End


class Watchdog(tune.Callback):
    """Kills the worker of a trial that runs longer than `limit` s; it is not tried again.

    `ends`: filled, by Tune's trial id, with `reason`. A worker's first start (data, base model) is
    not in a trial's time.
    """

    def __init__(self, limit: float, ends: MutableMapping[str, End], reason: str) -> None:
        self.limit, self.ends, self.reason = limit, ends, reason
        self._running: dict[str, tuple[Trial, float]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune stores its callbacks for a restore that is never used

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        self._running[trial.trial_id] = trial, time.monotonic()

    def on_trial_complete(self, iteration: int, trials: Any, trial: Trial, **_: Any) -> None:
        self._running.pop(trial.trial_id, None)

    def on_trial_error(self, iteration: int, trials: Any, trial: Trial, **_: Any) -> None:
        self._running.pop(trial.trial_id, None)

    def on_trial_recover(self, iteration: int, trials: Any, trial: Trial, **_: Any) -> None:
        self._running.pop(trial.trial_id, None)

    def on_step_end(self, iteration: int, trials: list[Trial], **_: Any) -> None:
        now = time.monotonic()
        for name, (trial, began) in list(self._running.items()):
            if now - began <= self.limit:
                continue
            del self._running[name]
            actor = trial.temporary_state.ray_actor
            if actor is None:
                continue
            self.ends[name] = End(self.reason)
            ray.kill(actor)
