"""The report's first chart: score against what is saved, other costs by a button; hover tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from search.pareto import CostAxis
from search.report import times
from search.report.plots import BLUE, GREEN, GREY, ORANGE, RED, Choice, Figure, dots, layout
from search.storage import Point, Results, Row, pruned_by, score

_SYMBOLS = ("diamond", "square", "triangle-up", "cross", "x")


def frontier(run: Results) -> Choice:
    """Score against what is saved, first; MACs, parameters and, where it was measured, latency."""
    found = {}
    shown, timed = [run.axis, *run.axis.others], times.axis(run)
    if timed is not None and timed != run.axis:
        shown.append(timed)
    for axis in shown:
        base = axis.base or run.record.get(f"base_{axis.column}")
        label = f"predicted {axis.word}" if axis.timed else axis.word
        found[label] = _against(run, axis.column, base, axis.title)
    if timed is not None and any(p.get("measured_ms") is not None for p in run.points):
        base = times.base_of(run).get("measured_ms")
        title = timed.title.replace("predicted", "measured")
        found["measured latency"] = _against(run, "measured_ms", base, title)
    for column in sorted({name for point in run.points for name in point}):
        if column.startswith("latency_ms_b") and column.removeprefix("latency_ms_b").isdigit():
            batch = column.removeprefix("latency_ms_b")
            base = run.base_latency.get(column)
            title = f"latency of a batch of {batch}"
            found[f"latency, batch {batch}"] = _against(run, column, base, title)
    return found


def _against(run: Results, column: str, base: float | None, title: str) -> Figure:
    """Score against one cost. Trials and baselines are drawn where they have that cost."""
    metric, to_screen = run.metric, run.metric.scale
    counts = CostAxis("latency" if "ms" in column.split("_") else "macs")
    scale, unit = counts.scaled([p.get(column) for p in run.points] + [base])
    members = {point.get("trial_id") for point in run.points}
    trials = [row for row in run.complete if getattr(row, column, None) is not None]
    other = [row for row in trials if row.trial_id not in members]
    points = [point for point in run.points if point.get(column) is not None]
    tested = [point for point in points if point.get("score_test_mean") is not None]
    data = [
        dots(
            [getattr(row, column) / scale for row in other],
            [to_screen * (row.score_val or 0.0) for row in other],
            "other trials, val",
            GREY,
            [_about_row(row, run) for row in other],
            size=6,
        ),
        dots(
            [point[column] / scale for point in points],
            [to_screen * _val(point) for point in points],
            "frontier, val",
            BLUE,
            [about(point, run) for point in points],
        ),
        dots(
            [point[column] / scale for point in tested],
            [to_screen * point["score_test_mean"] for point in tested],
            "frontier, test (mean ± std)",
            ORANGE,
            [about(point, run) for point in tested],
            size=8,
            error=[to_screen * (point.get("score_test_std") or 0.0) for point in tested],
        ),
        *_baselines(run, column, scale),
    ]
    if column == run.axis.column:  # along another cost the frontier is no staircase
        data[1] |= {"mode": "lines+markers", "line": {"shape": "hv", "width": 1.5, "color": BLUE}}
    whole = run.record.get("base_score_test") if tested else run.record.get("base_score_val")
    if base and whole is not None:
        name = f"base model, {'test' if tested else 'val'}"
        text = [f"base model<br>{escape(metric.show(whole))}"]
        star = dots([base / scale], [to_screen * whole], name, RED, text, size=14, symbol="star")
        data.append(star)
    values = [value for trace in data[1:] for value in trace["y"] if value is not None]
    axes = layout(f"{title} [{unit}]", escape(metric.axis), xaxis={"rangemode": "tozero"})
    if values:  # bad trials are there to be zoomed out to
        margin = max(1.0 if metric.fraction else 0.0, 0.12 * float(np.ptp(values))) or 1.0
        top = 101.0 if metric.fraction and metric.rises else np.inf
        axes["yaxis"]["range"] = [min(values) - margin, min(top, max(values) + margin)]
    return {"data": [trace for trace in data if trace["x"]], "layout": axes}


def about(point: Point, run: Results) -> str:
    """The hover text of a frontier point."""
    base, axis = run.record.get("base_macs"), run.axis
    share = f" ({100 * axis.share(point):.1f} % of base)" if axis.base else ""
    by = pruned_by(str(point["method"]), point["macs"], base)
    lines = [f"<b>point {point['rank']}</b>, {escape(by)}"]
    spent = [axis.show(axis.of(point)) + share, *_others(point, axis)]
    lines.append(", ".join(spent))
    if point.get("measured_ms") is not None:
        lines.append(f"measured {point['measured_ms']:.3g} ms")
    metric = run.metric
    lines.append(f"val {escape(metric.show(_val(point)))}")
    if point.get("score_test_mean") is not None:
        found = metric.number(point["score_test_mean"])
        found += metric.spread(point.get("score_test_std"))
        lines.append(escape(f"test {found} {metric.unit}".rstrip()))
    lines.append(escape(kept(point["widths"], run.base_widths)))
    lines.append(escape(str(point.get("checkpoint") or "").removeprefix(run.place).lstrip("/")))
    return "<br>".join(line for line in lines if line)


def _others(network: Row | Point, axis: CostAxis) -> list[str]:
    return [other.show(other.of(network)) for other in axis.others]


def kept(widths: Sequence[int], base: Mapping[str, int]) -> str:
    """Channels kept: each group's where they are few, else mean and range of the shares."""
    if not base or len(base) != len(widths):
        return ""
    if len(base) <= 6:
        pairs = zip(base.items(), widths, strict=True)
        return "channels kept: " + ", ".join(f"{w}/{whole}" for (_, whole), w in pairs)
    shares = [100 * w / whole for w, whole in zip(widths, base.values(), strict=True)]
    mean = sum(shares) / len(shares)
    return f"channels kept: {mean:.0f} % ({min(shares):.0f} to {max(shares):.0f} % by group)"


def _baselines(run: Results, column: str, scale: float) -> list[Figure]:
    """One-shot results: those of the comparison, or else the search's own one-shot seeds."""
    to_screen = run.metric.scale
    if run.comparison:
        found = [p for p in run.comparison if p.get(column) and score(p) is not None]
        names = sorted({str(point.get("method", "one-shot")) for point in found})
        return [
            dots(
                [point[column] / scale for point in own],
                [to_screen * (score(point) or 0.0) for point in own],
                f"{escape(name)} one-shot",
                GREEN,
                [_about_baseline(point, run) for point in own],
                size=9,
                symbol=_SYMBOLS[i % len(_SYMBOLS)],
                error=[to_screen * (point.get("score_test_std") or 0.0) for point in own],
            )
            for i, name in enumerate(names)
            if (own := [p for p in found if str(p.get("method", "one-shot")) == name])
        ]
    seeds = [
        row
        for row in run.complete
        if "one-shot" in str(row.proposal.get("source", ""))
        if getattr(row, column, None) is not None
    ]
    return [
        dots(
            [getattr(row, column) / scale for row in seeds],
            [to_screen * (row.score_val or 0.0) for row in seeds],
            "one-shot allocations, val",
            GREEN,
            [_about_row(row, run) for row in seeds],
            size=9,
            symbol="diamond-open",
        )
    ]


def _about_row(row: Row, run: Results) -> str:
    source = escape(str(row.proposal.get("source", "")))
    source += f", begun with {escape(row.parent)}" if row.parent else ""
    by = pruned_by(row.method, row.macs, run.record.get("base_macs"))
    return (
        f"trial {escape(row.trial_id)}, {escape(by)}<br>{source}<br>"
        f"{', '.join([run.axis.show(run.axis.of(row)), *_others(row, run.axis)])}<br>"
        f"val {escape(run.metric.show(row.score_val))}"
    )


def _about_baseline(point: Point, run: Results) -> str:
    name, found = str(point.get("method", "one-shot")), run.metric.show(score(point))
    spent = run.axis.show(run.axis.of(point))
    return f"{escape(name)} one-shot<br>{spent}<br>{escape(found)}"


def _val(point: Point) -> float:
    mean = point.get("score_val_mean")
    value = point.get("score_val") if mean is None else mean
    return float("nan") if value is None else float(value)
