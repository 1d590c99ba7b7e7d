"""Tune's view of what ends a trial early, and of what its worker died of."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from search.backend.searcher import End
from search.config import SearchConfig
from search.pareto import Reference, Strata, alike
from search.study import Halving, Screening, Study, limits, rungs


class ReportingScheduler(FIFOScheduler):
    """Runs every trial to its end, and says in `ends` what a worker died of.

    The scheduler is the one that Tune tells of a death before the searcher, which hears that there
    was one and not why.
    """

    def __init__(self, ends: MutableMapping[str, End]) -> None:
        super().__init__()
        self.ends = ends

    def on_trial_error(self, controller: Any, trial: Trial) -> None:
        reason = f"the trial's worker failed: {error_line(trial)}"
        self.ends.setdefault(trial.trial_id, End(reason, retry=True))


class FrontierScheduler(ReportingScheduler):
    """Tune's view of `Screening` and `Halving`: reads `widths`, `epochs`, `score_val` of reports.

    `ends`: filled, by Tune's trial id, with why a trial was stopped or its worker failed.
    """

    def __init__(
        self,
        halving: Halving,
        screening: Screening | None,
        study: Study,
        ends: MutableMapping[str, End],
    ) -> None:
        super().__init__(ends)
        self.halving, self.screening, self.study = halving, screening, study

    def on_trial_result(self, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        widths, score = result.get("widths"), result.get("score_val")
        if "status" in result or widths is None or score is None:
            return TrialScheduler.CONTINUE
        cost = float(self.study.cost.of(np.asarray(widths, dtype=np.int64)))
        name, epochs = trial.config.get("trial_id", trial.trial_id), result.get("epochs", 0.0)
        if epochs:
            reason = self.halving.judge(name, epochs, cost / self.study.cost.base, score)
        elif self.screening:
            reason = self.screening.judge(name, cost, score, self.study.rows)
        else:
            reason = None
        if reason is None:
            return TrialScheduler.CONTINUE
        self.ends[trial.trial_id] = End(reason)
        return TrialScheduler.STOP


def make(
    search: SearchConfig,
    epochs: float,
    study: Study,
    reference: Reference,
    ends: MutableMapping[str, End],
) -> FrontierScheduler:
    """The scheduler of a search; `epochs`: of a whole fine-tuning."""
    asked = limits.shares(study.limits, study.cost)
    low, high = limits.reach(study.cost, study.lat, *asked, study.limits)
    strata = Strata(low, high)
    steps = rungs(epochs) if search.early_stopping != "off" else ()
    word, metric = study.axis.word, reference.metric
    halving = Halving(steps, alike(low, high), cover=strata, metric=metric, word=word)
    halving.learn(study.rows, study.axis)
    screening = Screening(search.screen, strata, reference) if search.screen > 1 else None
    if screening:
        screening.learn(study.rows)
    return FrontierScheduler(halving, screening, study, ends)


def error_line(trial: Trial) -> str:
    """The last failure of a trial in one line, from the text that Tune keeps of it.

    Tune also keeps the exception, but as a pickle in a folder that others may write.
    """
    try:
        text = Path(trial.error_file).read_text(errors="replace")
    except (OSError, TypeError):
        text = ""
    last = [line.strip() for line in text.rpartition("Failure # ")[2].splitlines()[1:]]
    raised = [line for line in last if re.match(r"(\w+\.)*\w+(Error|Exception): ", line)]
    return next(iter([*reversed(raised), *filter(None, last)]), "see its log")
