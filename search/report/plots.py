"""Pieces of plotly.js figures, as plain data: {"data": [...], "layout": {...}}."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

Figure = dict[str, Any]
"""A figure of plotly.js; {} where there is nothing to show."""
Choice = dict[str, Figure]
"""One chart with several x axes, by the label of the button that shows it."""

BLUE, ORANGE, RED, GREEN, GREY = "#1f5fa8", "#d9730d", "#b3261e", "#2e7d32", "#b4b9c2"
_TEXT, _GRID = "#24292f", "#e6e8eb"


def dots(
    x: Sequence[float | None],
    y: Sequence[float | None],
    name: str,
    colour: str,
    text: Sequence[str],
    *,
    size: int = 7,
    symbol: str = "circle",
    error: Sequence[float] | None = None,
) -> Figure:
    """Markers whose hover label is `text` (pseudo-HTML, escaped by the caller)."""
    trace: Figure = {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": list(x),
        "y": list(y),
        "text": list(text),
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"color": colour, "size": size, "symbol": symbol},
    }
    if error is not None:
        bars = {"type": "data", "array": list(error), "thickness": 1.2, "width": 3}
        trace["error_y"] = bars | {"color": colour}
    return trace


def line(
    x: Sequence[float], y: Sequence[float], name: str, colour: str, dash: str = "solid"
) -> Figure:
    """A staircase: each value holds until the next."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": list(x),
        "y": list(y),
        "line": {"shape": "hv", "width": 2, "color": colour, "dash": dash},
        "hovertemplate": "%{x:.4g}: %{y:.1f} %<extra></extra>",
    }


def slopes(
    curves: Sequence[Sequence[float | None]],
    places: Sequence[Sequence[str] | Sequence[float]],
    names: Sequence[str],
    name: str,
    colour: str,
    opacity: float,
    markers: bool = True,
    unit: str = "%",
) -> Figure:
    """Many lines in one trace; places: the x values of each, names (escaped): one for each.

    Without markers thousands of points are drawn fast.
    """
    x: list[str | float | None] = []
    y: list[float | None] = []
    text: list[str] = []
    for curve, place, label in zip(curves, places, names, strict=True):
        x += [*place, None]
        y += [*curve, None]
        text += [label] * (len(curve) + 1)
    return {
        "type": "scatter",
        "mode": "lines+markers" if markers else "lines",
        "name": name,
        "x": x,
        "y": y,
        "text": text,
        "opacity": opacity,
        "line": {"color": colour, "width": 1.2},
        "marker": {"size": 4},
        "hovertemplate": "%{text}<br>%{x}: %{y:.3f} " + escape(unit) + "<extra></extra>",
    }


def layout(
    x_title: str,
    y_title: str,
    *,
    xaxis: Figure | None = None,
    yaxis: Figure | None = None,
    height: int = 420,
) -> Figure:
    """Axes whose titles name the unit, the legend above, room for long names."""
    axis = {"gridcolor": _GRID, "zeroline": False, "automargin": True, "linecolor": "#8b929a"}
    return {
        "height": height,
        "margin": {"l": 56, "r": 12, "t": 16, "b": 52},
        "font": {"family": "system-ui, sans-serif", "size": 12.5, "color": _TEXT},
        "plot_bgcolor": "#fff",
        "paper_bgcolor": "#fff",
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "xaxis": axis | {"title": {"text": x_title, "standoff": 8}} | (xaxis or {}),
        "yaxis": axis | {"title": {"text": y_title, "standoff": 8}} | (yaxis or {}),
    }
