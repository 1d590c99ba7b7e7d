"""The report's sentences and tables, as HTML; whatever comes from the run is escaped."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from search.config import human
from search.frontier import pictures
from search.pareto import Metric
from search.storage import Point, Results, pruned_by, score

MINUS = "−"
TIMES = {"predicted_ms": "predicted [ms]", "measured_ms": "measured [ms]"}


def title(run: Results) -> str:
    return escape(f"Slim versions of {pictures.subject(run.record)}")


def summary(run: Results) -> str:
    """One paragraph: the base model, the best trade-offs, how far the run got."""
    record, metric = run.record, run.metric
    sentences = []
    if record.get("base_macs"):
        test, val, show = record.get("base_score_test"), record.get("base_score_val"), metric.show
        found = f", {escape(metric.name)} {escape(show(test))} on test" if test is not None else ""
        found += f" ({escape(show(val))} on val)" if val is not None else ""
        size = f"{human(record['base_macs'])} MACs, {human(record['base_params'])} parameters"
        if run.axis.timed:
            size += f" and takes {run.axis.show(run.axis.base)}"
        sentences.append(f"The base model has {size}{found}.")
    if offers := trade_offs(run):
        on = "test" if run.tested else "val"
        listed = ", ".join(f"<strong>{offer}</strong>" for offer in offers)
        sentences.append(f"Best trade-offs, on {on}: {listed}.")
    elif not run.points:
        sentences.append("No trial has finished yet, so there is no frontier to show.")
    states = Counter(row.status for row in run.rows)
    counted = ", ".join(f"{count} {status}" for status, count in states.most_common())
    if counted:
        seconds = sum(row.wall_s for row in run.rows)
        sentences.append(f"Trials: {counted}; {_duration(seconds)} of trial time in all.")
    status = str(record.get("status", "unknown"))
    if status != "complete":
        sentences.append(
            f"The run is {escape(status)}: the frontier is that of its trials so far, on val."
        )
    return " ".join(sentences)


def trade_offs(run: Results) -> list[str]:
    """ "−52 % MACs at −0.4 points": the cheapest within 0, 1 and 3 points of the base model.

    Of a metric that is not in per cent: within 0, 1 and 3 % of the base model's.
    """
    record, metric, axis = run.record, run.metric, run.axis
    whole = record.get("base_score_test" if run.tested else "base_score_val")
    if whole is None or not axis.base:
        return []
    found: dict[int, str] = {}
    unit = 1.0 if metric.fraction else abs(whole)

    def change(point: Point) -> float:
        value = score(point)
        return -math.inf if value is None else metric.gain(value) - metric.gain(whole)

    for budget in (0.0, 0.01, 0.03):
        near = [p for p in run.points if change(p) >= -budget * unit]
        if not near:
            continue
        point = min(near, key=axis.of)
        saved = 1 - axis.share(point)
        if saved > 0:
            digits = 1 if metric.fraction else metric.digits
            moved = round(metric.scale * metric.gain(change(point)), digits)
            sign = MINUS if moved < 0 else "+" if moved > 0 else "±"
            by = f"{sign}{abs(moved):.{digits}f} {escape(metric.step)}"
            found[point["rank"]] = f"{MINUS}{saved:.0%} {axis.word} at {by}"
    return [offer.replace("%", "\u202f%") for offer in found.values()]


def frontier(run: Results) -> str:
    """The frontier as a table."""
    points, metric = run.points, run.metric
    if not points:
        return "<p>No finished trial yet.</p>"
    latencies = [
        name for name in points[0] if name.startswith("latency_ms_b") and "iqr" not in name
    ]
    axis, base = run.axis, run.record.get("base_macs")
    times = [n for n in TIMES if n != axis.column and any(p.get(n) is not None for p in points)]
    head = ["#", axis.heading, "of base", *(TIMES[name] for name in times)]
    head += [other.heading for other in axis.others]
    head += [f"{metric.name} {metric.column('val')}"]
    head += [f"{metric.name} {metric.column('test')}"] * run.tested
    head += [f"batch {name.removeprefix('latency_ms_b')} [ms]" for name in latencies]
    head += ["method", "model file"]
    body = []
    for point in points:
        cells = [str(point["rank"]), axis.number(axis.of(point))]
        cells.append(f"{axis.share(point):.1%}" if axis.base else "")
        cells += [_ms(point, name) for name in times]
        cells += [other.number(other.of(point)) for other in axis.others]
        cells.append(shown(metric, point, "score_val_mean", "score_val"))
        if run.tested:
            deviation = metric.spread(point.get("score_test_std"))
            cells.append(shown(metric, point, "score_test_mean", "score_test") + deviation)
        cells += ["" if point.get(n) is None else f"{point[n]:.3g}" for n in latencies]
        file = str(point.get("checkpoint") or "").removeprefix(run.place).lstrip("/")
        body.append([*cells, pruned_by(str(point["method"]), point["macs"], base), file])
    note = ""
    if latencies and points[0].get("latency_device"):
        found = [
            f"batch {n.removeprefix('latency_ms_b')}: {run.base_latency[n]:.3g} ms"
            for n in latencies
            if run.base_latency.get(n) is not None
        ]
        on = f"{points[0]['latency_device']}, {points[0].get('latency_dtype')}"
        note = f"<p class=note>Latency on {escape(on)}; base model: {', '.join(found)}.</p>"
    return table(head, body, numbers=len(head) - 2) + note


def comparison(run: Results) -> str:
    """One-shot pruning beside the frontier; "" where `slimfront compare` has not run."""
    if not run.comparison:
        return ""
    metric, axis = run.metric, run.axis
    head = ["asked", axis.heading, f"{metric.name} {metric.column('test')}"]
    head += [f"frontier's gain [{metric.step}]", f"{axis.word} it saves", "method"]
    body = []
    for point in run.comparison:
        deviation = metric.spread(point.get("score_test_std"))
        gap, saved = point.get("score_gap"), point.get("cost_gap")
        margin = metric.spread(point.get("margin"))
        body.append(
            [
                "" if point.get("asked_share") is None else f"{point['asked_share']:.0%}",
                axis.number(axis.of(point)),
                shown(metric, point, "score_test_mean", "score_val_mean") + deviation,
                "–" if gap is None else signed(metric, gap).replace("-", MINUS) + margin,
                "–" if saved is None else f"{saved:+.1%}".replace("-", MINUS),
                str(point.get("method", "")),
            ]
        )
    note = (
        "<p class=note>Networks of each method's own choice of widths, trained as the frontier's "
        f"points were. Gain: at no more {axis.word}; saving: share of the base model's, at no "
        "worse score. ±: two standard errors of the gain, of seeds and test images.</p>"
    )
    return "<h2>One-shot pruning beside it</h2>" + note + table(head, body, numbers=5)


def failures(run: Results) -> str:
    """Reasons why trials failed, were infeasible or ran otherwise than asked, most common first.

    Each stopped trial has a reason of its own, with numbers: the first speaks for all.
    """
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    first: dict[str, str] = {}
    for row in run.rows:
        reason = row.reason
        if row.status == "stopped":
            reason = "such as: " + first.setdefault(row.status, reason)
        if row.status in ("failed", "infeasible") or reason:
            found[row.status, reason or "no reason given"].append(row.trial_id)
    if not found:
        return "<p>No trial failed.</p>"
    body = [
        [status, str(len(ids)), reason, ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")]
        for (status, reason), ids in sorted(found.items(), key=lambda item: -len(item[1]))
    ]
    return table(["status", "trials", "reason", "which"], body)


def settings(record: Mapping[str, Any]) -> str:
    """Every key of the configuration; versions; where and when it ran."""
    rows = [[key, _show(value)] for key, value in _flat(record.get("config", {}))]
    versions = [[name, str(version)] for name, version in record.get("versions", {}).items()]
    facts = [(k, record.get(k)) for k in ("status", "created_at", "updated_at", "host", "seed")]
    about = [[key, str(value)] for key, value in facts if value is not None]
    return (
        "<h3>Run</h3>"
        + table(["", ""], about)
        + "<h3>Versions</h3>"
        + table(["package", "version"], versions)
        + "<h3>Configuration</h3>"
        + table(["key", "value"], rows)
    )


def table(head: Sequence[str], body: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """An HTML table that scrolls inside its box; the first `numbers` columns align right."""

    def cells(tag: str, row: Sequence[str]) -> str:
        # a long text takes several lines, lest it push the other columns out of sight
        kinds = ["n" if i < numbers else "w" * (len(cell) > 40) for i, cell in enumerate(row)]
        return "".join(
            f"<{tag}{f' class={kind}' if kind else ''}>{escape(cell)}</{tag}>"
            for kind, cell in zip(kinds, row, strict=True)
        )

    header = f"<thead><tr>{cells('th', head)}</tr></thead>" if any(head) else ""
    rows = "".join(f"<tr>{cells('td', row)}</tr>" for row in body)
    return f"<div class=scroll><table>{header}<tbody>{rows}</tbody></table></div>"


def _ms(point: Point, name: str) -> str:
    spread = point.get("measured_iqr_ms") if name == "measured_ms" else None
    value = point.get(name)
    return "–" if value is None else f"{value:.3g}" + (f" ± {spread:.2g}" if spread else "")


def shown(metric: Metric, point: Point, *names: str) -> str:
    """The first of the columns that was measured, as the metric's number."""
    return metric.number(next((point[n] for n in names if point.get(n) is not None), None))


def signed(metric: Metric, gap: float) -> str:
    """ "+0.53": a difference, in points where the metric is in per cent."""
    return f"{metric.scale * gap:+.{metric.digits}f}"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _show(value: Any) -> str:
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
