"""Matplotlib figures of a frontier, made without pyplot: a caller's own backend stays as it is."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from search.config import CLASSIFICATION, SEGMENTATION
from search.data import OWN_FILES
from search.storage import Row, axis_of, metric_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def empty() -> tuple[Figure, Axes]:
    """An empty figure and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    return figure, figure.add_subplot()


def frontier(
    points: Sequence[Mapping[str, Any]], rows: Sequence[Row], record: Mapping[str, Any]
) -> Figure:
    """Scores against costs: the frontier on test and val, over all finished trials."""
    metric, axis = metric_of(record), axis_of(record)
    figure, axes = empty()
    done = [row for row in rows if row.status == "complete" and row.score_val is not None]
    scale, unit = axis.scaled([axis.base])
    costs = np.array([axis.of(point) for point in points]) / scale
    val, test = (
        metric.scale * np.array([p.get(f"score_{s}_mean") for p in points], dtype=float)
        for s in ("val", "test")
    )
    single = metric.scale * np.array([point["score_val"] for point in points], dtype=float)
    val = np.where(np.isfinite(val), val, single)
    spread = [metric.scale * (point.get("score_test_std") or 0.0) for point in points]
    axes.plot(
        [axis.of(row) / scale for row in done],
        [metric.scale * (row.score_val or 0.0) for row in done],
        ".",
        color="0.7",
        label="finished trials, val",
    )
    axes.step(costs, val, where="post", color="tab:blue", lw=1, label="frontier, val")
    axes.errorbar(
        costs,
        test,
        yerr=spread,
        fmt="o",
        color="tab:orange",
        ms=4,
        capsize=2,
        label="frontier, test (mean ± std)",
    )
    base = axis.base / scale, metric.scale * record["base_score_test"]
    axes.plot(*base, "*", color="tab:red", ms=11, label="base model, test")
    axes.set(xlabel=f"{axis.title} [{unit}]", ylabel=metric.axis)
    shown = np.concatenate([val, test[np.isfinite(test)], [base[1]]])
    if len(shown):
        margin = max(1.0 if metric.fraction else 0.0, 0.15 * float(np.ptp(shown))) or 1.0
        top = 100.5 if metric.fraction and metric.rises else np.inf
        axes.set_ylim(shown.min() - margin, min(top, shown.max() + margin))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right" if metric.rises else "upper right", fontsize=8)
    axes.set_title(f"{subject(record)}: {len(costs)} points")
    return figure


def subject(record: Mapping[str, Any]) -> str:
    """ "resnet20 on cifar10", or the task's name: what a run is about."""
    config = record.get("config", {})
    task = str(config.get("task", CLASSIFICATION))
    model = config.get("model", {}).get("name", "network")
    data = config.get("data", {})
    name = data.get("name", "data")
    if name in OWN_FILES and data.get("root"):
        name = str(data["root"]).split("?")[0].rstrip("/").rpartition("/")[2] or name
    return f"{model} on {name}" if task in (CLASSIFICATION, SEGMENTATION) else task


def png(figure: Figure) -> bytes:
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    return sink.getvalue()
