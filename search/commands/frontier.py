"""`slimfront frontier`: the frontier of a run, finished or still running, or one point of it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search.config import Parser
from search.frontier import ChooseOptions, correlation, select

if TYPE_CHECKING:
    from rich.console import Console

Record = dict[str, Any]


def run(argv: Sequence[str], prog: str) -> None:
    """Print the frontier, or the point chosen, as a table or as JSON."""
    parser = Parser(
        prog=prog,
        usage=f"{prog} RUN [--at-most 50%] [--at-least 93%] [--knee] [--json]",
        description=(
            "Show the frontier of a run: of its finished trials while it runs, and with test "
            "scores once it has ended. --at-most, --at-least and --knee choose one point; "
            "exit code 2, naming the nearest, where none qualifies."
        ),
    )
    parser.add_argument("run", metavar="RUN", help="folder or URI of a search (its --out)")
    select.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    found = parser.read(argv)
    options = select.options_of(found)
    if found["json"]:
        # scores are in the metric, MACs for one image; a value that was not measured is null
        print(json.dumps(read(found["run"], options), indent=1, allow_nan=False))
    else:
        from rich.console import Console

        show(found["run"], Console(), options)


def read(place: str, options: ChooseOptions | None = None) -> Record:
    """{"run", "status", "finished", "metric", "objective", "base_macs", "points"} of a run.

    UserError if there is none. While a run goes on, the points are those of its trials so far. With
    options that choose, the one point chosen.
    """
    from search.storage import results

    record = results.read_record(place)
    points, finished = results.read_points(place, record)
    if options is not None and options.given:
        points = [dict(select.choose(points, options, record))]
    return {
        "run": place,
        "status": record.get("status"),
        "finished": finished,
        "metric": results.metric_of(record).to_json(),
        "objective": results.axis_of(record).to_json(),
        "base_macs": record.get("base_macs"),
        "points": [{key: _plain(value) for key, value in point.items()} for point in points],
    }


def show(place: str, console: Console, options: ChooseOptions | None = None) -> Record:
    """Print the frontier of a run as a table; returns what `read` does."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from search.pareto import CostAxis, Metric
    from search.storage import results

    found = read(place, options)
    metric, axis = Metric.from_json(found["metric"]), CostAxis.from_json(found["objective"])
    points, base = found["points"], found["base_macs"]
    if not points:
        ended = found["status"] == "complete"
        line = "no trial of {} was complete; trials.parquet there has each one's reason"
        line = line if ended else "no finished trial yet in {}; the frontier fills as trials end"
        console.print(line.format(place), markup=False)
        return found
    chosen = options is not None and options.given
    tested = any(point.get("score_test_mean") is not None for point in points)
    times = {"predicted_ms": "ms", "measured_ms": "measured", "latency_ms_b1": "at batch 1"}
    times = {
        name: label
        for name, label in times.items()
        if name != axis.column and any(point.get(name) is not None for point in points)
    }
    state = "" if found["finished"] else ", so far"
    number = f"point {points[0].get('rank', 0)}" if chosen else f"{len(points)} points"
    title = escape(f"{number} on the frontier of {place}{state}, {metric.name}")
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    columns = ["#", "ms" if axis.timed else axis.heading] + ["of base"] * bool(axis.base)
    others = axis.others[: max(0, 2 - len(times))]  # what a terminal has room for
    columns += [*times.values(), *(other.heading for other in others), metric.column("val")]
    columns += [metric.column("test")] * tested
    for column in columns:
        table.add_column(escape(column), justify="right", no_wrap=True)
    table.add_column("method", no_wrap=True)
    for i, point in enumerate(points):
        cells = [str(point.get("rank", i)), axis.number(axis.of(point))]
        cells += [f"{axis.share(point):.1%}"] if axis.base else []
        cells += [_ms(point.get(name)) for name in times]
        cells += [other.number(other.of(point)) for other in others]
        val = point.get("score_val_mean", point.get("score_val"))
        test, std = point.get("score_test_mean"), point.get("score_test_std")
        cells += [metric.number(val)]
        cells += [metric.number(test) + metric.spread(std)] * tested
        by = results.pruned_by(str(point["method"]), point["macs"], base)
        table.add_row(*cells, escape(by))
    console.print(table)
    if agreement := correlation.foretold(points):
        console.print(str(agreement), highlight=False)
    if chosen and points[0].get("checkpoint"):
        line = f'pruning.load("{points[0]["checkpoint"]}")'
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return found


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, str | int | float | list | dict | None) else str(value)
