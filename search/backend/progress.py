"""What a search says while it runs: a live panel on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from ray import tune
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from search.pareto import Reference
from search.pareto import front as pareto
from search.storage import files, live
from search.study import Study

LOG_EVERY = 30.0  # seconds between lines where there is no terminal
SHOWN = 8
LIVE_EVERY = 2.0  # seconds between states for those who watch, on a disk ...
LIVE_EVERY_FAR = 10.0  # ... and in an object store


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
    ) -> None:
        self.run, self.beat, self.written = run, 0, -np.inf
        self.reports: dict[str, dict[str, Any]] = {}  # the latest of each running trial
        self.started: dict[str, float] = {}
        self.study, self.budget, self.reference = study, budget, reference
        self.console = console
        self.began = time.monotonic()
        self.done_before = study.finished
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

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        every = LIVE_EVERY if self.run and self.run.is_local else LIVE_EVERY_FAR
        if self.run and time.monotonic() - self.written >= every:
            self.written = time.monotonic()
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
            macs = int(cost.macs(np.array(widths))) if widths else candidate.asked_macs
            score, epochs = report.get("score_val"), float(report.get("epochs") or 0.0)
            score = float(score) if score is not None and np.isfinite(score) else None
            running.append(live.Running(name, macs, epochs, score, now - self.started[name]))
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
        volume = pareto.hypervolume(pareto.points_of(complete), self.reference)
        parts.append(f"hypervolume {volume:.4f}")
        return ", ".join([*parts, *self._time_left()])

    def panel(self) -> Group:
        table = Table(box=None, padding=(0, 2), header_style="dim")
        for column in ("MACs [M]", "of base", "val [%]", "method"):
            table.add_column(column, justify="right")
        complete = [row for row in self.study.rows if row.status == "complete"]
        front = pareto.front(pareto.points_of(complete))
        picks = np.unique(np.linspace(0, len(front) - 1, SHOWN).round().astype(int))
        for i in front[picks] if len(front) else []:
            row = complete[i]
            share = row.macs / self.reference.base_macs
            accuracy = 100 * (row.score_val or 0.0)
            table.add_row(f"{row.macs / 1e6:.2f}", f"{share:.1%}", f"{accuracy:.2f}", row.method)
        return Group(Text(self.headline(), style="bold"), table)

    def _seconds_left(self) -> float | None:
        done = self.study.finished - self.done_before
        if not done or self.study.finished >= self.budget:
            return None
        return (time.monotonic() - self.began) / done * (self.budget - self.study.finished)

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
