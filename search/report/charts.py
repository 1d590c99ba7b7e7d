"""The report's other charts: progress, widths, methods, importance, and stages of a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape

import numpy as np

from search.pareto import CostAxis, Metric, Strata, front
from search.report.plots import BLUE, GREY, ORANGE, Choice, Figure, layout, line, slopes
from search.storage import Results, Row, record

STAGES = ("cut", "repaired", "fine-tuned")


def progress(run: Results) -> Choice:
    """Hypervolume and coverage of the costs after each trial, in the order in which they ended."""
    rows = sorted(_ran(run), key=_ended)
    if not rows or run.record.get("reference_point") is None:
        return {}
    reference = record.reference(run.record)
    points = reference.points(rows)
    points[[row.status != "complete" for row in rows]] = np.nan
    volume = [100 * front.hypervolume(points[: i + 1], reference) for i in range(len(rows))]
    bins = strata(run)
    shares = points[:, 0] / (run.axis.base or reference.cost)
    seen = [shares[: i + 1][np.isfinite(shares[: i + 1])] for i in range(len(rows))]
    covered = [100 * bins.hit(s) / bins.bins if len(s) else 0.0 for s in seen]
    hours = [_ended(row) / 3600 for row in rows]
    unit, scale = ("min", 60) if hours[-1] - hours[0] < 2 else ("h", 1)
    begin = min(_started(row) for row in rows) / 3600
    whole = {"dtick": 1} if len(rows) < 12 else {}
    axes: dict[str, tuple[list[float], str, Figure]] = {
        "trials": ([*range(1, len(rows) + 1)], "trials that ended [count]", whole),
        "time": ([scale * (hour - begin) for hour in hours], f"time since the start [{unit}]", {}),
    }
    return {
        name: {
            "data": [
                line(x, volume, "hypervolume (share of the box)", BLUE),
                line(x, covered, f"{run.axis.word} coverage (share of steps)", ORANGE, dash="dot"),
            ],
            "layout": layout(title, "share [%]", xaxis=ticks, yaxis={"range": [0, 103]}),
        }
        for name, (x, title, ticks) in axes.items()
    }


def widths(run: Results) -> Figure:
    """Share of channels kept, groups x points."""
    base = run.base_widths
    points, names = list(run.points), list(base)
    if not points or not names or any(len(p["widths"]) != len(names) for p in points):
        return {}
    kept = np.array([point["widths"] for point in points], dtype=np.float64).T
    share = 100 * kept / np.array(list(base.values()), dtype=np.float64)[:, None]
    hover = [
        [
            f"{escape(name)}<br>point {point['rank']}: {int(kept[g, i])} of {base[name]} channels"
            for i, point in enumerate(points)
        ]
        for g, name in enumerate(names)
    ]
    return {
        "data": [
            {
                "type": "heatmap",
                "z": share.round(1).tolist(),
                "x": [str(point["rank"]) for point in points],
                "y": [escape(name) for name in names],
                "text": hover,
                "hovertemplate": "%{text} (%{z:.0f} %)<extra></extra>",
                "zmin": 0,
                "zmax": 100,
                "colorscale": "Viridis",
                "xgap": 1,
                "ygap": 1,
                "colorbar": {"title": {"text": "kept [%]"}, "thickness": 12},
            }
        ],
        "layout": layout(
            "point of the frontier [rank, cheapest first]",
            "group [name]",
            xaxis={"type": "category"},
            yaxis={"autorange": "reversed", "type": "category"},
            height=max(260, 110 + 15 * len(names)),
        ),
    }


def methods(run: Results) -> Figure:
    """Shares of the methods among trials and among the frontier; empty for a single method."""
    base = run.record.get("base_macs")  # which no method has pruned
    tried = [row.method for row in _ran(run) if row.macs != base]
    names = sorted(set(tried))
    if len(names) < 2:
        return {}
    members = [str(point["method"]) for point in run.points if point["macs"] != base]
    groups = [("trials", tried, GREY), ("frontier", members, BLUE)]
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "name": f"of {len(found)} {label}",
                "y": [escape(name) for name in names],
                "x": [100 * found.count(name) / max(1, len(found)) for name in names],
                "marker": {"color": colour},
                "hovertemplate": "%{y}: %{x:.0f} %<extra>" + label + "</extra>",
            }
            for label, found, colour in groups
        ],
        "layout": layout(
            "share [%]",
            "method [name]",
            yaxis={"type": "category"},
            height=170 + 34 * len(names),
        ),
    }


def importance(values: Mapping[str, float]) -> Figure:
    """Horizontal bars, most important first, twenty at most."""
    shown = sorted(values.items(), key=lambda item: -item[1])[:20]
    if not shown:
        return {}
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "y": [escape(name) for name, _ in shown],
                "x": [100 * value for _, value in shown],
                "marker": {"color": BLUE},
                "hovertemplate": "%{y}: %{x:.1f} %<extra></extra>",
            }
        ],
        "layout": layout(
            "importance [% of all]",
            "parameter [name]",
            yaxis={"autorange": "reversed", "type": "category"},
            height=140 + 22 * len(shown),
        ),
    }


def stages(run: Results) -> Figure:
    """Each trial's score when cut, when repaired with BN estimated anew, and when fine-tuned."""
    members = {point["trial_id"] for point in run.points if "trial_id" in point}
    rows = [row for row in run.complete if row.score_pruned is not None]
    if not rows:
        return {}
    scores = [(row.score_pruned, row.score_repaired, row.score_val) for row in rows]
    return {
        "data": _slopes(rows, scores, [STAGES] * len(rows), members, run.metric, run.axis),
        "layout": layout(
            "stage of a trial",
            _axis(run),
            xaxis={"type": "category", "range": [-0.15, 2.15]},
        ),
    }


def curves(run: Results) -> Figure:
    """Each trial's score after every epoch of its fine-tuning, those stopped early included."""
    members = {point["trial_id"] for point in run.points if "trial_id" in point}
    rows = [row for row in run.rows if row.curve]
    if not rows:
        return {}
    epochs = [[*range(len(row.curve)), row.epochs] for row in rows]
    return {
        "data": _slopes(
            rows,
            [(r.score_repaired, *r.curve) for r in rows],
            epochs,
            members,
            run.metric,
            run.axis,
        ),
        "layout": layout("fine-tuning [epochs]", _axis(run)),
    }


def _axis(run: Results) -> str:
    metric = run.metric
    return escape(f"{metric.name} on {metric.column('val')}")


def strata(run: Results) -> Strata:
    """The ten steps of the range of costs, even in the square root, that coverage counts."""
    shares = [run.axis.share(row) for row in run.complete] or [0.1, 1.0]
    return Strata(min(*shares, 0.99), max(*shares, 1.0))


def _slopes(
    rows: Sequence[Row],
    scores: Sequence[Sequence[float | None]],
    places: Sequence[Sequence[str] | Sequence[float]],
    members: set[str],
    metric: Metric,
    axis: CostAxis,
) -> list[Figure]:
    """A trace of the trials that are not on the frontier, and one of its members."""
    found = []
    for name, colour, opacity, inside in (
        ("other trials", GREY, 0.45, False),
        ("frontier", BLUE, 0.9, True),
    ):
        mine = [i for i, row in enumerate(rows) if (row.trial_id in members) == inside]
        if mine:
            ys = [[None if v is None else metric.scale * v for v in scores[i]] for i in mine]
            names = [f"{escape(rows[i].trial_id)}, {axis.show(axis.of(rows[i]))}" for i in mine]
            xs = [places[i] for i in mine]
            made = slopes(ys, xs, names, name, colour, opacity, markers=inside, unit=metric.unit)
            found.append(made)
    return found


def _ran(run: Results) -> list[Row]:
    return [row for row in run.rows if row.status != "infeasible"]


def _started(row: Row) -> float:
    """Seconds since the epoch; 0 for a trial that does not say."""
    return datetime.fromisoformat(row.started_at).timestamp() if row.started_at else 0.0


def _ended(row: Row) -> float:
    return _started(row) + row.wall_s
