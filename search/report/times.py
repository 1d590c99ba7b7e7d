"""The report's milliseconds: foretold beside measured, as a chart and as a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from search.frontier import correlation
from search.pareto import CostAxis
from search.report.plots import BLUE, GREY, Figure, dots, layout
from search.storage import Results


def base_of(run: Results) -> Mapping[str, Any]:
    """What the run knows of the base model's time: runtime, batch, predicted and measured ms."""
    found = run.record.get("base", {}).get("latency")
    return found if isinstance(found, Mapping) else {}


def axis(run: Results) -> CostAxis | None:
    """Latency as a cost to be shown; None where the run foretells none."""
    if run.axis.timed:
        return run.axis
    base = base_of(run)
    if not base:
        return None
    return CostAxis("latency", base["predicted_ms"], base["runtime"], base["batch"])


def note(run: Results) -> str:
    """What milliseconds are of, and how near the foretold come to the measured; "" without any."""
    base, shown = base_of(run), axis(run)
    if not base or shown is None:
        return ""
    predicted, measured = (shown.show(base[f"{kind}_ms"]) for kind in ("predicted", "measured"))
    sentences = [
        f"Milliseconds are of a batch of {base['batch']} with {base['runtime']}; "
        f"base model: {predicted} predicted, {measured} measured"
    ]
    if found := correlation.foretold(run.points):
        sentences.append(str(found))
    return f"<p class=note>{escape('; '.join(sentences))}.</p>"


def chart(run: Results) -> Figure:
    """Measured against predicted times of the frontier's members; {} without any."""
    points = [p for p in run.points if p.get("measured_ms") is not None and p.get("predicted_ms")]
    if len(points) < 2:
        return {}
    x, y = [p["predicted_ms"] for p in points], [p["measured_ms"] for p in points]
    text = [
        f"point {p['rank']}<br>predicted {p['predicted_ms']:.3g} ms, "
        f"measured {p['measured_ms']:.3g} ± {p.get('measured_iqr_ms') or 0:.2g} ms"
        for p in points
    ]
    spread = [0.5 * (p.get("measured_iqr_ms") or 0.0) for p in points]
    low, high = min(*x, *y), max(*x, *y)
    same: Figure = {
        "type": "scatter",
        "mode": "lines",
        "name": "measured as predicted",
        "x": [low, high],
        "y": [low, high],
        "line": {"color": GREY, "width": 1.2, "dash": "dot"},
        "hoverinfo": "skip",
    }
    members = dots(
        x, y, "frontier (median, half the interquartile range)", BLUE, text, error=spread
    )
    return {
        "data": [same, members],
        "layout": layout("predicted [ms]", "measured [ms]", height=360),
    }
