"""Choosing a point of a frontier: best within a cost, cheapest of a score, or the knee.

The best is best on val: test scores are for reporting, and serve as a threshold only.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pruning.errors import UserError
from search.config import human, notation, quantity
from search.pareto import MACS, TOP1, CostAxis, Metric
from search.storage import results

if TYPE_CHECKING:
    from search.config import Parser

Point = Mapping[str, Any]
TIMES = ("measured_ms", "predicted_ms", "latency_ms_b1")  # what "ms" means: the first there is
_COST = re.compile(r"(?P<value>.*?)\s*(?P<what>macs?|params?|parameters)?", re.I)


@dataclass(frozen=True)
class ChooseOptions:
    """Which point of the frontier to take, as the flags say it; none where nothing is given."""

    at_most: str | None = None
    at_least: str | None = None
    knee: bool = False

    @property
    def given(self) -> bool:
        return self.knee or self.at_most is not None or self.at_least is not None


def add_arguments(parser: Parser) -> None:
    """The flags of ChooseOptions."""
    parser.add_argument(
        "--at_most",
        metavar="COST",
        help='take the best point that costs at most this: "60M MACs" for one image, '
        '"50% MACs" of the base model\'s, "2M params", "40% params", "50%" of what the run saves, '
        'or "2.5ms" (as the run measured or foretold it, else at batch 1 as slimfront export RUN '
        "--latency has measured it)",
    )
    parser.add_argument(
        "--at_least",
        metavar="SCORE",
        help='take the cheapest point that is at least so good ("93%", "28.5", in the '
        "metric's unit; on test where that has been measured, else on val); with --at-most, the "
        "best point that meets both",
    )
    parser.add_argument(
        "--knee",
        action="store_true",
        help="take the knee, where a higher cost begins to bring little: the point farthest "
        "above the line between the frontier's ends",
    )


def options_of(found: Any) -> ChooseOptions:
    """The choice among parsed flags."""
    return ChooseOptions(**{f.name: found[f.name] for f in dataclasses.fields(ChooseOptions)})


@dataclass(frozen=True)
class Bound:
    """A column of the frontier and the most that it may be; `unit` is for messages."""

    column: str
    most: float
    unit: str

    def show(self, value: float) -> str:
        return f"{value:.3g} {self.unit}" if self.unit == "ms" else f"{human(value)} {self.unit}"


def choose(points: Sequence[Point], options: ChooseOptions, record: Mapping[str, Any]) -> Point:
    """The one point that options ask for; UserError, naming the nearest, where none qualifies."""
    if options.knee and (options.at_most is not None or options.at_least is not None):
        raise UserError("--knee chooses by itself; leave out --at-most and --at-least")
    bound = parse_cost(options.at_most, record) if options.at_most is not None else None
    metric, axis = results.metric_of(record), results.axis_of(record)
    least = parse_score(options.at_least, metric) if options.at_least is not None else None
    if not points:
        raise UserError("the frontier has no points yet; let the search finish a trial")
    if options.knee:
        return knee(points, metric, axis)
    affordable = [p for p in points if bound is None or _cost_of(p, bound) <= bound.most]
    if bound is not None and not affordable:
        nearest = min(points, key=lambda p: _cost_of(p, bound))
        raise UserError(
            f"no point has at most {bound.show(bound.most)}; the nearest is "
            f"{describe(nearest, metric)}" + _at(nearest, bound)
        )
    if least is None:
        return max(affordable, key=lambda p: metric.gain(_val(p)))
    good = [p for p in affordable if _gain(p, metric) >= metric.gain(least)]
    if not good:
        nearest = max(affordable, key=lambda p: _gain(p, metric))
        within = f" with at most {bound.show(bound.most)}" if bound is not None else ""
        raise UserError(
            f"no point{within} has {'at least' if metric.rises else 'at most'} "
            f"{metric.show(least)}; the nearest is {describe(nearest, metric)}"
        )
    if bound is None:
        return min(good, key=axis.of)
    return max(good, key=lambda p: metric.gain(_val(p)))


def knee(points: Sequence[Point], metric: Metric = TOP1, axis: CostAxis = MACS) -> Point:
    """The point farthest above the line between the frontier's ends; UserError below three."""
    from search.pareto import front

    found = front.knee([(axis.of(point), metric.gain(_val(point))) for point in points])
    if found is None:
        raise UserError(
            f"a frontier of {len(points)} points has no knee; use --at-most or --at-least"
        )
    return points[found]


def parse_cost(text: str, record: Mapping[str, Any]) -> Bound:
    """Read "60M MACs", "50%", "2M params" or "2.5ms"; UserError otherwise."""
    match = _COST.fullmatch(text.strip())
    assert match is not None  # the value may be anything
    axis = results.axis_of(record)
    value, what = match["value"], (match["what"] or "").lower()
    if value.lower().endswith("ms") and match["what"] is None:
        return Bound("ms", quantity.parse(value, "--at-most_ms").of(1.0), "ms")
    try:
        found = quantity.parse(value, "--at-most")
    except UserError:
        raise UserError(
            f'--at-most {text!r} is not a cost; write "60M MACs", "50%", "2M params" or "2.5ms"'
        ) from None
    if what.startswith("mac"):
        return Bound("macs", found.of(record.get("base_macs") or 0), "MACs")
    if what:
        return Bound("params", found.of(record.get("base_params") or 0), "parameters")
    return Bound(axis.column, found.of(axis.base), axis.unit)


def parse_score(text: str, metric: Metric = TOP1) -> float:
    """Read "93%" or "0.93", a fraction, or a number in the metric's unit; UserError otherwise."""
    if metric.fraction:
        return notation.share(text, "--at-least", "93%")
    try:
        return float(text.strip().removesuffix(metric.unit))
    except ValueError:
        raise UserError(
            f"--at-least {text!r} is no {metric.name}; write a number of {metric.unit or 'it'}"
        ) from None


def describe(point: Point, metric: Metric = TOP1) -> str:
    """ "point 3, 99.7k MACs, 91.78%"."""
    found = metric.show(results.score(point))
    return f"point {point['rank']}, {human(point['macs'])} MACs, {found}"


def _at(point: Point, bound: Bound) -> str:
    return "" if bound.column == "macs" else f", {bound.show(_cost_of(point, bound))}"


def _cost_of(point: Point, bound: Bound) -> float:
    names = TIMES if bound.column == "ms" else (bound.column,)
    value = next((point[name] for name in names if point.get(name) is not None), None)
    if value is None:
        raise UserError(
            "the frontier has no latencies; measure them with slimfront export RUN --latency"
        )
    return float(value)


def _val(point: Point) -> float:
    mean = point.get("score_val_mean")
    return float(point["score_val"] if mean is None else mean)


def _gain(point: Point, metric: Metric) -> float:
    value = results.score(point)
    return -math.inf if value is None else metric.gain(value)
