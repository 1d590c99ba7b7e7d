"""What a search says while it runs: a live panel on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from ray import tune
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pruning.errors import UserError
from search.config import Config
from search.pareto import MACS, TOP1, CostAxis, Metric, Reference
from search.pareto import front as pareto
from search.storage import Row, files, live, pruned_by
from search.study import Study
from search.trial import final_training

LOG_EVERY = 30.0  # seconds between lines where there is no terminal
SHOWN = 8
LIVE_EVERY = 2.0  # seconds between states for those who watch, on a disk ...
LIVE_EVERY_FAR = 10.0  # ... and in an object store
BETWEEN = 0.1  # seconds from the end of a trial to the next one's begin
GROWTH = 0.6  # a frontier grows with this power of the trials


class Progress(tune.Callback):
    """Trials done and running, best points so far, hypervolume, time left.

    run: where `live.json` is written for those who watch from elsewhere; None writes none.
    """

    def __init__(
        self,
        study: Study,
        budget: int,
        reference: Reference,
        console: Console,
        run: files.Location | None = None,
        left: Callable[[Sequence[Row], float], float | None] = lambda rows, start: None,
    ) -> None:
        """left: seconds that the run still takes, by the rows so far and what a start takes."""
        self.run, self.beat, self.written = run, 0, -np.inf
        self.reports: dict[str, dict[str, Any]] = {}  # the latest of each running trial
        self.started: dict[str, float] = {}
        self.study, self.budget, self.reference = study, budget, reference
        self.console = console
        self.left = left
        self.begun = time.monotonic()
        self.start: float | None = None  # seconds until workers were there
        self.logged = -np.inf
        # what else writes goes past the panel: Ray's words to its log (ray_log), not into it
        self.live = Live(
            console=console,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune stores its callbacks for a restore that is never used

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.live.stop()
        self._log(self.headline())

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.reports[str(trial.config.get("trial_id"))] = result
        if self.start is None:
            spent = float(result.get("wall_s") or 0.0)
            self.start = max(0.0, time.monotonic() - self.begun - spent)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        every = LIVE_EVERY if self.run and self.run.is_local else LIVE_EVERY_FAR
        if self.run and time.monotonic() - self.written >= every:
            self.written = time.monotonic()
            with suppress(UserError):  # another drives the run by now: the next row says so
                self.study.ledger.guard()
                live.write(self.run, self.state())
        if self.console.is_terminal:
            self.live.update(self.panel())
        elif time.monotonic() - self.logged >= LOG_EVERY:
            self._log(self.headline())

    def state(self) -> live.Live:
        """What runs now."""
        self.beat += 1
        now, going = time.monotonic(), self.study.running
        self.started = {name: self.started.get(name, now) for name in going}
        self.reports = {name: found for name, found in self.reports.items() if name in going}
        running = []
        for name, (candidate, _) in going.items():
            report = self.reports.get(name, {})
            widths = report.get("widths") or candidate.widths
            cost = self.study.cost
            spent = float(cost.of(np.array(widths)) if widths else candidate.asked)
            score, epochs = report.get("score_val"), float(report.get("epochs") or 0.0)
            score = float(score) if score is not None and np.isfinite(score) else None
            running.append(live.Running(name, spent, epochs, score, now - self.started[name]))
        left = self._seconds_left()
        return live.Live(self.beat, self.budget, self.study.finished, left, tuple(running))

    def headline(self) -> str:
        study = self.study
        counts = {"failed": 0, "stopped": 0, "infeasible": 0}
        for row in study.rows:
            if row.status in counts:
                counts[row.status] += 1
        parts = [f"{study.finished}/{self.budget} trials, {len(study.running)} running"]
        parts += [f"{count} {status}" for status, count in counts.items() if count]
        complete = [row for row in study.rows if row.status == "complete"]
        points = self.reference.points(complete)
        volume = pareto.hypervolume(points, self.reference)
        parts.append(f"hypervolume {volume:.4f}")
        return ", ".join([*parts, *self._time_left()])

    def panel(self) -> Group:
        metric, axis = self.reference.metric, self.study.axis
        table = Table(box=None, padding=(0, 2), header_style="dim")
        for column in (axis.heading, "of base", metric.column("val"), "method"):
            table.add_column(escape(column), justify="right")
        complete = [row for row in self.study.rows if row.status == "complete"]
        front = pareto.front(self.reference.points(complete))
        picks = np.unique(np.linspace(0, len(front) - 1, SHOWN).round().astype(int))
        for i in front[picks] if len(front) else []:
            row = complete[i]
            by = pruned_by(row.method, row.macs, self.study.cost.base_macs)
            spent, share = axis.number(axis.of(row)), f"{axis.share(row):.1%}"
            table.add_row(spent, share, metric.number(row.score_val), by)
        return Group(Text(self.headline(), style="bold"), table)

    def _seconds_left(self) -> float | None:
        if self.study.finished >= self.budget:
            return None
        return self.left(self.study.rows, self.start or 0.0)

    def _time_left(self) -> list[str]:
        seconds = self._seconds_left()
        return [] if seconds is None else [f"about {duration(seconds)} left"]

    def _log(self, line: str) -> None:
        self.logged = time.monotonic()
        self.console.print(line, highlight=False, markup=False)


def duration(seconds: float) -> str:
    """47 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def seconds_left(
    rows: Sequence[Row],
    start: float,
    config: Config,
    slots: int,
    metric: Metric = TOP1,
    axis: CostAxis = MACS,
) -> float | None:
    """Seconds until the frontier is there; None before any network has been trained.

    rows: of the trials that ended. The base model's own trial, which takes no time, does not count.
    start: seconds until workers were there; those of the final trainings take as long.
    """
    timed = [row for row in rows if row.wall_s > 0 and (row.epochs > 0 or row.status != "complete")]
    trained = [row for row in timed if row.epochs > 0]
    if not trained and config.finetune.epochs > 0:
        return None
    if not timed:
        timed = trained = [row for row in rows if row.prune_s > 0]
    if not timed:
        return None
    trained = trained or timed
    # a worker's first training is slow: kernels are made, images come from the disk
    first, warm = trained[:slots], trained[slots:] or trained
    if len(trained) > slots and config.search.final_seeds:
        start += max(0.0, _mean([r.wall_s for r in first]) - _mean([r.wall_s for r in warm]))
    usual = [row for row in timed if row not in first] or timed
    to_come = max(0, config.trials - len(rows)) * (_mean([r.wall_s for r in usual]) + BETWEEN)
    each = (to_come + _final(rows, warm, config, metric, axis)) / max(1, min(slots, config.trials))
    return each + (start if config.search.final_seeds else 0.0)


def _final(
    rows: Sequence[Row], trained: Sequence[Row], config: Config, metric: Metric, axis: CostAxis
) -> float:
    """Seconds of all final trainings, one after another."""
    search = config.search
    if not search.final_seeds:
        return 0.0
    complete = [row for row in rows if row.status == "complete"]
    members = len(pareto.front(pareto.points_of(complete, metric, axis)))
    members = round(members * max(1.0, config.trials / max(1, len(rows))) ** GROWTH)
    members = min(members, search.final_points or members, config.trials)
    # each is trained so often, and up to final_seeds times where neighbours overlap
    often = (min(final_training.ALL, search.final_seeds) + search.final_seeds) / 2
    epochs = _mean([row.epochs for row in trained])
    longer = (search.final_epochs or config.finetune.epochs) / epochs - 1 if epochs else 0.0
    once = _mean([row.wall_s for row in trained])
    if search.parents:  # what a trial has left is cut and repaired already
        once -= _mean([row.prune_s for row in trained])
    once += longer * _mean([row.finetune_s for row in trained])
    return members * often * max(0.0, once)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
