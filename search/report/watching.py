"""A run at one moment, for a terminal and as a page that refreshes itself."""

from __future__ import annotations

import dataclasses
import html
import io
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from search.pareto import CostAxis, Metric, front, growth
from search.storage import Ledger, Row, pruned_by, record, results
from search.storage import files as storage
from search.storage import live as driver

SHOWN = 10  # points of the frontier, and running trials
SILENT_S = 60.0  # without a sign of the driver, before that is said
OVER = ("complete", "interrupted")


@dataclass(frozen=True)
class View:
    """A run at one moment. silent_s: since the driver last gave a sign, as far as was watched."""

    place: str
    record: dict[str, Any]
    rows: Sequence[Row]
    live: driver.Live | None
    silent_s: float

    @property
    def metric(self) -> Metric:
        """What its scores are."""
        return results.metric_of(self.record)

    @property
    def axis(self) -> CostAxis:
        """What it saves."""
        return results.axis_of(self.record)

    @property
    def over(self) -> bool:
        return self.record.get("status") in OVER

    @property
    def complete(self) -> list[Row]:
        return [row for row in self.rows if row.status == "complete"]

    @property
    def frontier(self) -> list[Row]:
        done = self.complete
        return [done[i] for i in front.front(front.points_of(done, self.metric, self.axis))]

    @property
    def hypervolume(self) -> float:
        reference = record.reference(self.record)
        return front.hypervolume(reference.points(self.complete), reference)

    @property
    def running(self) -> Sequence[driver.Running]:
        return self.live.running if self.live and not self.over else ()

    def headline(self) -> str:
        """ "12/32 trials, 2 running, 1 failed, hypervolume 0.9312, about 3 min left"."""
        budget = self.live.trials if self.live else self.record["config"].get("trials", 0)
        ended = sum(row.status != "infeasible" or row.wall_s > 0 for row in self.rows)
        parts = [f"{ended}/{budget} trials, {len(self.running)} running"]
        counts = Counter(row.status for row in self.rows if row.status != "complete")
        parts += [f"{count} {status}" for status, count in sorted(counts.items())]
        parts.append(f"hypervolume {self.hypervolume:.4f}")
        if self.over:
            parts.append(str(self.record["status"]))
        elif self.silent_s > SILENT_S:
            parts.append(f"no sign of its driver for {self.silent_s:.0f} s")
        elif self.live and self.live.seconds_left is not None:
            parts.append(f"about {duration(self.live.seconds_left)} left")
        return ", ".join(parts)

    def notes(self) -> list[str]:
        """What was stopped at which rung, why trials failed, and what more would bring."""
        stopped = Counter(row.epochs for row in self.rows if row.status == "stopped")
        found = [f"{n} stopped after {epochs:g} epochs" for epochs, n in sorted(stopped.items())]
        failed = Counter(row.reason for row in self.rows if row.status == "failed")
        found += [f"{n} failed: {reason}" for reason, n in failed.most_common(3)]
        outlook = growth.outlook(self.rows, record.reference(self.record))
        return found + ([outlook] if outlook else [])

    def to_json(self) -> dict[str, Any]:
        return {
            "status": self.record.get("status"),
            "headline": self.headline(),
            "hypervolume": self.hypervolume,
            "metric": self.metric.to_json(),
            "objective": self.axis.to_json(),
            "live": dataclasses.asdict(self.live) if self.live else None,
            "frontier": [
                {
                    "trial_id": row.trial_id,
                    "macs": row.macs,
                    "cost": self.axis.of(row),
                    "score": row.score_val,
                }
                for row in self.frontier
            ],
            "notes": self.notes(),
        }


@dataclass
class Watcher:
    """Reads a run again and again; a trial's file once, unless it failed and may be run again."""

    place: str
    _rows: dict[str, Row] = field(default_factory=dict)
    _beat: int | None = None
    _heard: float = field(default_factory=time.monotonic)

    def look(self) -> View:
        """The run as it is now; UserError where there is none."""
        found = results.read_record(self.place)
        run = storage.open_uri(self.place)
        now = driver.read(run)
        if now is not None and now.beat != self._beat:
            self._beat, self._heard = now.beat, time.monotonic()
        rows = Ledger(self.place).rows(known=self._rows)
        self._rows = {row.trial_id: row for row in rows if row.status != "failed"}
        return View(self.place, found, rows, now, time.monotonic() - self._heard)


def panel(view: View) -> Group:
    """The view for a terminal."""
    members, base = view.frontier, view.record["base_macs"]
    metric, axis = view.metric, view.axis
    picks = np.unique(np.linspace(0, len(members) - 1, SHOWN).round().astype(int))
    points = _table(axis.heading, "of base", metric.column("val"), "method")
    for i in picks if members else []:
        row = members[i]
        share, score = f"{axis.share(row):.1%}", metric.number(row.score_val)
        by = pruned_by(row.method, row.macs, base)
        points.add_row(axis.number(axis.of(row)), share, score, by)
    running = _table("running", "of base", "epochs", metric.column("val"), "for")
    for trial in view.running[:SHOWN]:
        score = "" if trial.score is None else metric.number(trial.score)
        share, epochs = f"{trial.cost / (axis.base or 1):.1%}", f"{trial.epochs:g}"
        running.add_row(trial.trial, share, epochs, score, duration(trial.seconds))
    head = Text(f"{view.place}: {view.headline()}", style="bold")
    return Group(head, points, *([running] if view.running else []), *map(Text, view.notes()))


def live_page(view: View, every: float) -> str:
    """The view as HTML that asks for itself again; a run that has ended is not asked for."""
    console = Console(record=True, width=110, file=io.StringIO())
    console.print(panel(view))
    body = console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")
    refresh = "" if view.over else f'<meta http-equiv="refresh" content="{every:g}">'
    title = html.escape(f"{view.place}: {view.headline()}")
    style = "<style>body{font:15px/1.5 system-ui;margin:2em}pre{font-size:14px}</style>"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{refresh}'
        f"<title>{title}</title>{style}</head><body>{plot(view)}{body}</body></html>"
    )


def plot(view: View, width: int = 640, height: int = 300) -> str:
    """The frontier as SVG: scores against costs, other trials in grey; better is higher."""
    done, metric, axis = view.complete, view.metric, view.axis
    if not done:
        return ""
    gains = front.points_of(done, metric)[:, 1]
    low, best = float(gains.min()), record.reference(view.record).best
    high = max(best, float(gains.max())) if metric.fraction else float(gains.max())

    def dot(row: Row, colour: str, size: int) -> str:
        x = 40 + (width - 60) * min(axis.share(row), 1.0)
        y = height - 30 - (height - 50) * (_gain(row, metric) - low) / max(high - low, 1e-9)
        found = metric.show(row.score_val)
        label = html.escape(f"{row.trial_id}: {axis.share(row):.1%}, {found}")
        return (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{colour}">'
            f"<title>{label}</title></circle>"
        )

    members = view.frontier
    dots = [dot(row, "#bbb", 3) for row in done] + [dot(row, "#1f77b4", 5) for row in members]
    ends = f"{metric.show(metric.gain(low))} to {metric.show(metric.gain(high))}"
    axes = (
        f'<path d="M40 10V{height - 30}H{width - 10}" fill="none" stroke="#888"/>'
        f'<text x="{width - 10}" y="{height - 10}" text-anchor="end" font-size="12">'
        f'{axis.title}, share of the base (to 100%)</text><text x="44" y="20" font-size="12">'
        f"{html.escape(metric.name)} on val ({html.escape(ends)})</text>"
    )
    return f'<svg width="{width}" height="{height}" role="img">{axes}{"".join(dots)}</svg>'


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for column in columns:
        table.add_column(escape(column), justify="right")
    return table


def _gain(row: Row, metric: Metric) -> float:
    return float(front.points_of([row], metric)[0, 1])


def duration(seconds: float) -> str:
    """47 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
