"""The bridge from a Study to Ray Tune: suggestions out, ends of trials in."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from ray.tune.search import Searcher

from pruning.errors import UserError
from search.pareto import Patience
from search.storage import STATUSES
from search.study import Outcome, Study
from search.trial import FATAL

ALIKE = 8  # trials in a row that fail for one reason, before the search ends
RETRIES = 2  # how often at most
RETRY = ""  # a reason: the worker failed, the trial is to be tried again
_OUTCOME = tuple(field.name for field in fields(Outcome) if field.name not in ("status", "reason"))


class FrontierSearcher(Searcher):
    """Candidates of `study` until `budget` trials have ended, those of earlier sessions included.

    Each report of a trial carries fields of `Outcome` (score_val, epochs, ...); the last one of a
    trial that ran to its end also has `status` (and `reason`). Without a status it was stopped.
    Metric and mode stay unset: Tune would demand them in every report. A ledger that cannot be
    written ends the search, and so does a report with FATAL; `error` then says why.

    `patience`: ends the search sooner; what runs then is waited for, and may let it go on.
    `reasons`: by Tune's trial id, why a trial was stopped or its worker failed, where the scheduler
    or the watchdog know it; RETRY where the failure is no end yet. `exhausted`: no new feasible
    network was found.
    """

    def __init__(self, study: Study, budget: int, patience: Patience | None = None) -> None:
        super().__init__()
        self.study, self.budget, self.patience = study, budget, patience
        self.error: UserError | None = None
        self.exhausted = False
        self.reasons: dict[str, str] = {}
        self._failure: str | None = None  # the last trial's
        self._alike = 0  # trials in a row that ended with it
        self._trials: dict[str, str] = {}  # Tune's trial id -> ours
        self._retries: Counter[str] = Counter()
        self._to_retry: deque[str] = deque()  # of ours, running for the study, for Tune no more

    def suggest(self, trial_id: str) -> Any:
        """A flat configuration, None (wait for running trials) or FINISHED."""
        running, waiting = len(self.study.running), self.study.waiting
        if self._to_retry and not self.error:
            self._trials[trial_id] = self._to_retry.popleft()
            return self.study.running[self._trials[trial_id]][0].to_config()
        if self.error or (self.study.finished >= self.budget and not waiting):
            return Searcher.FINISHED
        if self.study.finished + running >= self.budget and not waiting:
            return None
        if not waiting and self.study.settled(self.patience):
            return None if running else Searcher.FINISHED
        try:
            candidate = self.study.ask()
        except UserError as error:
            self.error = error
            return Searcher.FINISHED
        if candidate is None:
            self.exhausted = not running
            return None if running else Searcher.FINISHED
        self._trials[trial_id] = candidate.trial_id
        return candidate.to_config()

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        ours = self._trials.pop(trial_id, None)
        known = self.reasons.pop(trial_id, None)
        if ours not in self.study.running:
            return
        if error and known == RETRY and self._retries[ours] < RETRIES:
            self._retries[ours] += 1
            self._to_retry.append(ours)
            return
        if result is not None and result.get(FATAL):
            self.error = self.error or UserError(str(result.get("reason")))
        if (result is None and not error) or (result or {}).get(FATAL):
            self.study.abandon(ours)  # removed before it ran, or not to blame: it has no row
            return
        outcome = outcome_of(result or {}, error)
        if error:
            outcome = replace(outcome, reason=known or outcome.reason)
        elif outcome.status == "stopped":
            outcome = replace(outcome, reason="; ".join(filter(None, (outcome.reason, known))))
        before = self.study.retried.get(ours)
        self._count_alike(outcome, before.reason if before else None)
        try:
            self.study.tell(ours, outcome)
        except UserError as failure:  # Tune would log it and go on
            self.error = failure

    def _count_alike(self, outcome: Outcome, before: str | None) -> None:
        """A machine that is at fault fails every trial alike: the budget is not for that.

        before: why the trial failed the last time; that it does so again is no news.
        """
        failure = outcome.reason if outcome.status == "failed" else None
        if failure is not None and failure == before:
            return
        self._alike = self._alike + 1 if failure == self._failure else 1
        self._failure = failure
        if failure is not None and self._alike >= ALIKE:
            self.error = self.error or UserError(
                f"the last {self._alike} trials failed alike ({failure}); mend that, then the same "
                "command with --search.retry_failed true goes on and runs them again"
            )

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the one truth, and Tune's restore is not used."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""


def outcome_of(result: Mapping[str, Any], error: bool = False) -> Outcome:
    """How a trial ended, from its last report (flat; foreign keys are ignored)."""
    known = {name: result[name] for name in _OUTCOME if result.get(name) is not None}
    if "widths" in known:
        known["widths"] = tuple(int(w) for w in known["widths"])
    known["curve"] = tuple(float(v) for v in known.get("curve", ()))
    status = result.get("status", "stopped")
    reason = str(result.get("reason") or "")
    if error:
        status, reason = "failed", reason or "the trial's worker raised or died; see its log"
    elif status not in STATUSES:
        status, reason = "failed", f"unknown status {status!r} reported"
    return Outcome(status=status, reason=reason, **known)
