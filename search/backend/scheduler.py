"""MO-ASHA: at each rung, trials go on that are among the best of their part of the MAC range.

A rung is a number of epochs. All that reached a rung are put in order by non-dominated sort on
(MACs, accuracy), the least crowded first within a rank, and a trial goes on if it is among the
first 1/factor of those with about its MACs, or the best of its part of the MAC range. So the cheap
end is never starved, and no part of the range stays empty. Scores before any gradient step are
judged otherwise: screening.py.

Schmucker et al., Multi-objective asynchronous successive halving (2021).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from search.backend.searcher import End
from search.config import SearchConfig
from search.pareto import TOP1, Metric, Reference, Strata, alike, front
from search.storage import Row
from search.study import Screening, Study

FACTOR = 3.0  # one trial of so many goes on


def rungs(epochs: float, factor: float = FACTOR) -> tuple[int, ...]:
    """`epochs` / factor, / factor², … in whole epochs, ascending, all before the end."""
    levels = []
    level = epochs / factor
    while factor > 1 and round(level) >= 1:
        if round(level) < epochs:
            levels.append(round(level))
        level /= factor
    return tuple(sorted(set(levels)))


class Halving:
    """What each trial scored at each rung, and whether it goes on; no Ray in here."""

    def __init__(
        self,
        steps: Iterable[int],
        strata: Strata,
        factor: float = FACTOR,
        cover: Strata | None = None,
        metric: Metric = TOP1,
    ) -> None:
        """strata: of what is compared; cover: of what no part may stay empty."""
        self.steps, self.strata, self.factor = tuple(steps), strata, factor
        self.cover, self.metric = cover or strata, metric
        self._scores: list[dict[str, tuple[float, float]]] = [{} for _ in self.steps]

    def learn(self, rows: Iterable[Row], base_macs: int) -> None:
        """Fill the rungs from an earlier session's rows."""
        for row in rows:
            if row.score_repaired is None or (row.status != "stopped" and not row.epochs):
                continue
            share = row.macs / base_macs
            for step, scores in zip(self.steps, self._scores, strict=True):
                seen = (row.score_repaired, *row.curve)
                if step < len(seen):
                    scores[row.trial_id] = share, self.metric.gain(seen[step])

    def judge(self, trial: str, epochs: float, share: float, score: float) -> str | None:
        """Record a report; None where the trial goes on, else the reason why it does not.

        share: MACs as a share of the base. A rung is decided once for each trial, so one that began
        anew (after running out of memory, say) is not judged twice.
        """
        reached = [i for i, step in enumerate(self.steps) if epochs >= step]
        if not reached or not math.isfinite(score):
            return None
        scores = self._scores[reached[-1]]
        if trial in scores:
            return None
        scores[trial] = share, self.metric.gain(score)
        place, peers = _place(scores, trial, self.strata)
        if place < math.ceil(peers / self.factor) or _place(scores, trial, self.cover)[0] == 0:
            return None
        return (
            f"rank {place + 1} of {peers} near {share:.0%} of the MACs after {epochs:g} epochs; "
            f"one of {self.factor:g} goes on"
        )


def _place(
    scores: Mapping[str, tuple[float, float]], trial: str, strata: Strata
) -> tuple[int, int]:
    """Place of a trial, 0 the best, among those of its MAC stratum, and how many these are."""
    names = list(scores)
    points = np.array(list(scores.values()))
    bins = strata.index(points[:, 0])
    mine = names.index(trial)
    order = [i for i in front.order(points) if bins[i] == bins[mine]]
    return order.index(mine), len(order)


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
        macs = int(self.study.cost.macs(np.asarray(widths, dtype=np.int64)))
        name, epochs = trial.config.get("trial_id", trial.trial_id), result.get("epochs", 0.0)
        if epochs:
            reason = self.halving.judge(name, epochs, macs / self.study.cost.base_macs, score)
        elif self.screening:
            reason = self.screening.judge(name, macs, score, self.study.rows)
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
    base, limits = study.cost.base_macs, study.limits
    low = max(int(study.cost.macs(study.lat.low)), limits.min_macs or 0.0) / base
    high = min(base, limits.max_macs or base) / base
    strata = Strata(low, high)
    steps = rungs(epochs) if search.early_stopping != "off" else ()
    halving = Halving(steps, alike(low, high), cover=strata, metric=reference.metric)
    halving.learn(study.rows, base)
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
