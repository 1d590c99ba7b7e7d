"""Final trainings by Ray Tune: another queue for the workers that run the trials."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from pruning.errors import UserError
from search.backend import tuner
from search.backend.cluster import TrialResources
from search.backend.scheduler import ReportingScheduler
from search.backend.searcher import RetryingSearcher
from search.backend.timeout import Watchdog
from search.config import Config
from search.trial import BaseModel, Job, Open, TrialContext, final_training

SAY_EVERY = 20.0  # seconds


class JobSearcher(RetryingSearcher):
    """Hands out batches of jobs, the next one when all of the one before have ended.

    `batches` may so look at what was stored before. `first`: of all, `over`: none is left.
    """

    def __init__(self, batches: Iterable[Sequence[Job]], say: Callable[[str], None]) -> None:
        super().__init__()
        self.say, self.over = say, False
        self.count = self.done = 0  # of the current batch
        self._batches = iter(batches)
        self._queue: deque[Job] = deque()
        self._jobs: dict[str, Job] = {}  # handed out and not ended, by name
        self._fill()
        self.first = self._queue[0] if self._queue else None

    def next(self) -> Any:
        try:
            if not self.error and not self._jobs:
                self._fill()
        except UserError as error:
            self.error = error
        if self.error or self.over:
            return Searcher.FINISHED
        if not self._queue:
            return None
        job = self._queue.popleft()
        self._jobs[job.name] = job
        return job.to_config()

    def ended(self, name: str, result: dict[str, Any] | None, reason: str, died: bool) -> None:
        job = self._jobs.pop(name)
        if result is None and not died:  # removed before it ran
            self._queue.append(job)
            return
        self.done += 1
        report = result or {}
        if died or (report.get("status") != "complete" and not self.error):
            what = "its test" if job.k == final_training.OWN else f"final training {job.k}"
            why = reason or report.get("reason") or "its worker died; see its log"
            self.say(f"{job.row.trial_id}: {what} failed ({why})")

    def _fill(self) -> None:
        """The next batch that is not empty; `over` where there is none."""
        while not self._queue and not self.over:
            batch = next(self._batches, None)
            self.over = batch is None
            self._queue.extend({job.name: job for job in batch or ()}.values())
            self.count, self.done = len(self._queue), 0


class Told(tune.Callback):
    """How many are done, now and then; once each number."""

    def __init__(self, searcher: JobSearcher) -> None:
        self.searcher, self.at, self.said = searcher, time.monotonic(), ""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune stores its callbacks for a restore that is never used

    def on_step_end(self, iteration: int, trials: Any, **_: Any) -> None:
        line = f"{self.searcher.done} of {self.searcher.count} final trainings done"
        if line != self.said and time.monotonic() - self.at > SAY_EVERY:
            self.at, self.said = time.monotonic(), line
            self.searcher.say(line)


def train_all(
    config: Config,
    base: BaseModel,
    batches: Iterable[Sequence[Job]],
    share: TrialResources,
    say: Callable[[str], None],
    open_context: Open = TrialContext.open,
    body: Callable[..., Any] = final_training.run,
) -> None:
    """Train and store all jobs, as many at a time as fit; what fails is said, and left out.

    What takes longer than search.trial_timeout_s allows is not tried again. KeyboardInterrupt where
    the user stopped it, UserError where no training can succeed.
    """
    searcher = JobSearcher(batches, say)
    if searcher.first is None:
        return
    watch = []
    if (limit := final_training.longest(config, searcher.first.row)) is not None:
        watch.append(Watchdog(limit, searcher.ends, f"not done after {limit:g} s"))
    trainable = tuner.trainable(config, base, share, open_context, body, Job.from_config)
    callbacks = [Told(searcher), *watch]
    scheduler = ReportingScheduler(searcher.ends)
    tuner.fit(config, trainable, searcher, scheduler, share.slots, callbacks, part="final")
    if searcher.error:
        raise searcher.error
    if not searcher.over:
        raise KeyboardInterrupt
