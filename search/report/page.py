"""RUN/report.html: a run as one self-contained page, for someone who was not there."""

from __future__ import annotations

import json
import math
from importlib.resources import files
from string import Template
from typing import Any

from pruning.models import files as uri
from search.pareto import growth
from search.report import charts, frontier_chart, tables, times
from search.report.importance import FEWEST, importance
from search.storage import Results, record, results

NAME = "report.html"


def write(out: str) -> str:
    """Write the page of the run at `out`, finished or not; returns its address."""
    page = render(results.read(out))
    place = uri.join(out, NAME)
    uri.write(place, page.encode())
    return place


def render(run: Results) -> str:
    """The page. It opens without a network: plotly.js is in it."""
    from plotly.offline import get_plotlyjs

    weights = importance(run.rows, run.metric, run.axis)
    figures = {
        "frontier": frontier_chart.frontier(run) if run.points else {},
        "progress": charts.progress(run),
        "times": times.chart(run),
        "widths": charts.widths(run),
        "methods": charts.methods(run),
        "importance": charts.importance(weights),
        "stages": charts.stages(run),
        "curves": charts.curves(run),
    }
    template = Template(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=tables.title(run),
        summary=tables.summary(run),
        count=len(run.points),
        comparison=tables.comparison(run),
        frontier_table=tables.frontier(run),
        times_note=times.note(run),
        failures=tables.failures(run),
        settings=tables.settings(run.record),
        coverage=_coverage(run),
        methods_note=_methods_note(run),
        importance_note=_importance_note(run, weights),
        figures=script_json({name: figure for name, figure in figures.items() if figure}),
        plotly=get_plotlyjs().replace("</script", "<\\/script"),
    )


def script_json(data: Any) -> str:
    """JSON that can stand inside a script element; what is not finite is null."""
    text = json.dumps(_finite(data), separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _coverage(run: Results) -> str:
    bins = charts.strata(run)
    return (
        f"Hypervolume: share of the box from no cost at a perfect score to the reference point "
        f"that trials dominate. Coverage: of {bins.bins} equal steps (in the square root) between "
        f"{bins.low:.1%} and {bins.high:.0%} of the base model's {run.axis.word}, "
        "those with a trial."
    ) + _outlook(run)


def _outlook(run: Results) -> str:
    if "reference_point" not in run.record:
        return ""
    found = growth.outlook(run.rows, record.reference(run.record))
    return f" {found}." if found else ""


def _methods_note(run: Results) -> str:
    names = {row.method for row in run.rows}
    if len(names) > 1:
        return "Which pruning methods were tried, and which the frontier is made of."
    return f"All trials prune by {tables.escape(next(iter(names), 'one method'))}."


def _importance_note(run: Results, weights: dict[str, float]) -> str:
    if weights:
        return (
            "Which of the sampler's parameters set the best quarter of the trials apart, by their "
            "score above that of other trials of the same cost (PED-ANOVA). The o. "
            "parameters shift the widths of one group or stage."
        )
    return (
        f"Parameter importance needs {FEWEST} finished trials whose parameters vary; "
        f"this run has {len(run.complete)}."
    )
