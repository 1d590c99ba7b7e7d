"""The bridge from queues of trials to Ray Tune: suggestions out, ends of trials in."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ray.tune.search import Searcher

from pruning.errors import UserError
from search.pareto import Patience
from search.storage import STATUSES, Outcome
from search.study import Study
from search.trial import FATAL

ALIKE = 8  # trials in a row that fail for one reason, before the search ends
RETRIES = 2  # of a trial whose worker died; the next death is its failure
_OUTCOME = tuple(field.name for field in fields(Outcome) if field.name not in ("status", "reason"))


@dataclass(frozen=True)
class End:
    """Why a trial ends, where the driver knows more than its reports; retry: try it again."""

    reason: str
    retry: bool = False


class RetryingSearcher(Searcher):
    """Hands Tune one configuration after the other, and those again whose worker died.

    A subclass says what is `next` and is told how each has `ended`. A configuration's `trial_id` is
    our name for the trial; Tune gives each try another one.

    `ends`: by Tune's id, filled by scheduler and watchdog. `error`: no trial can succeed, say on a
    disk that is full (a report with FATAL); nothing more is suggested then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.error: UserError | None = None
        self.ends: dict[str, End] = {}
        self._running: dict[str, dict[str, Any]] = {}  # by Tune's id
        self._to_retry: deque[dict[str, Any]] = deque()
        self._deaths: Counter[str] = Counter()  # of workers, by our name of the trial

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune stores its searcher for a restore that is never used

    def next(self) -> Any:
        """A flat configuration, None (wait for running trials) or FINISHED."""
        raise NotImplementedError

    def ended(self, name: str, result: dict[str, Any] | None, reason: str, died: bool) -> None:
        """result: the last report, None where there was none; reason: the driver's, or empty."""
        raise NotImplementedError

    def suggest(self, trial_id: str) -> Any:
        config = self._to_retry.popleft() if self._to_retry and not self.error else self.next()
        if isinstance(config, dict):
            self._running[trial_id] = config
        return config

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        config = self._running.pop(trial_id, None)
        end = self.ends.pop(trial_id, End(""))
        if config is None:
            return
        name = str(config["trial_id"])
        if error and end.retry and self._deaths[name] < RETRIES:
            self._deaths[name] += 1
            self._to_retry.append(config)
            return
        if result is not None and result.get(FATAL):
            self.error = self.error or UserError(str(result.get("reason")))
        self.ended(name, result, end.reason, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what is on disk is the one truth, and Tune's restore is not used."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""


class FrontierSearcher(RetryingSearcher):
    """Candidates of `study` until `budget` trials have ended, those of earlier sessions included.

    Each report of a trial carries fields of `Outcome` (score_val, epochs, ...); the last one of a
    trial that ran to its end also has `status` (and `reason`). Without a status it was stopped.
    Metric and mode stay unset: Tune would demand them in every report. A ledger that cannot be
    written ends the search; `error` then says why.

    `patience`: ends the search sooner; what runs then is waited for, and may let it go on.
    `exhausted`: no new feasible network was found.
    """

    def __init__(self, study: Study, budget: int, patience: Patience | None = None) -> None:
        super().__init__()
        self.study, self.budget, self.patience = study, budget, patience
        self.exhausted = False
        self._failure: str | None = None  # the last trial's
        self._alike = 0  # trials in a row that ended with it

    def next(self) -> Any:
        running, waiting = len(self.study.running), self.study.waiting
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
        return candidate.to_config()

    def ended(self, name: str, result: dict[str, Any] | None, reason: str, died: bool) -> None:
        if name not in self.study.running:
            return
        if (result is None and not died) or (result or {}).get(FATAL):
            self.study.abandon(name)  # removed before it ran, or not to blame: it has no row
            return
        outcome = outcome_of(result or {}, died)
        if died:
            outcome = replace(outcome, reason=reason or outcome.reason)
        elif outcome.status == "stopped":
            outcome = replace(outcome, reason="; ".join(filter(None, (outcome.reason, reason))))
        before = self.study.retried.get(name)
        self._count_alike(outcome, before.reason if before else None)
        try:
            self.study.tell(name, outcome)
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
