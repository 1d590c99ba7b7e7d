"""Tables of the reach benchmark's lines, as Markdown."""

from __future__ import annotations

import statistics
from typing import Any

Row = dict[str, Any]
CONVOLUTIONAL = ("torchvision CNN", "timm CNN")


def tables(rows: list[Row]) -> str:
    """What holds for each kind of networks, then what stands out by name."""
    measured = [row for row in rows if "skipped" not in row]
    kinds = list(dict.fromkeys(row["kind"] for row in measured))
    lines = [*_head(), *(_line(kind, [r for r in measured if r["kind"] == kind]) for kind in kinds)]
    lines += [_line("all", measured), "", _within(measured), "", *_notes(rows)]
    return "\n".join(lines)


def _head() -> list[str]:
    columns = [
        "",
        "n",
        "whole",
        "partly",
        "unchanged",
        "wrong",
        "raw error",
        "timeout",
        "least MACs ≤ 50 %",
        "MACs within 0.1 %",
        "untouched",
        "trains",
        "loads",
        "trace s, median / worst",
        "torch-pruning: works / wrong shape / crash / timeout",
    ]
    return [_row(columns), "|---" * len(columns) + "|"]


def _row(cells: list[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def good(row: Row) -> bool:
    return "error" not in row and row["exact"]


def close(row: Row) -> bool:
    return all(abs(row[key] - 1) < 1e-3 for key in ("cost_whole", "cost_cut"))


def _line(kind: str, own: list[Row]) -> str:
    ran = [row for row in own if "error" not in row]
    exact = [row for row in ran if row["exact"]]
    late = sum(row.get("error") == "timeout" for row in own)
    seconds = [row["trace_s"] for row in ran] or [0.0]
    peers = ("works", "wrong shape", "crash", "timeout")
    cells = [
        kind,
        len(own),
        sum(row["whole"] for row in exact),
        sum(bool(row["groups"]) and not row["whole"] for row in exact),
        sum(not row["groups"] for row in exact),
        len(ran) - len(exact),
        len(own) - len(ran) - late,
        late,
        sum(row["least"] <= 0.5 for row in exact),
        sum(close(row) for row in ran),
        sum(row["untouched"] for row in ran),
        sum(row["trains"] for row in ran),
        sum(row["loads"] for row in ran),
        f"{statistics.median(seconds):.2f} / {max(seconds):.1f}",
        " / ".join(str(sum(row.get("peer") == each for row in own)) for each in peers),
    ]
    return _row(cells)


def _within(rows: list[Row]) -> str:
    nets = [row for row in rows if row["kind"] in CONVOLUTIONAL]
    reached = [row for row in nets if good(row) and row["least"] <= 0.5]
    share = 100 * len(reached) / max(len(nets), 1)
    return (
        f"Convolutional networks that are exact with at least half of their MACs within reach: "
        f"{len(reached)} of {len(nets)} ({share:.1f} %)."
    )


def _notes(rows: list[Row]) -> list[str]:
    """Networks of which something does not hold, by what."""
    found = {
        "left out for their size": [r for r in rows if "skipped" in r],
        "error": [r for r in rows if "error" in r],
        "not exact": [r for r in rows if "exact" in r and not r["exact"]],
        "MACs off": [r for r in rows if "exact" in r and not close(r) and not r.get("varies")],
        "MACs of the cut network are those of other boxes, which it looks at again": [
            r for r in rows if r.get("varies")
        ],
        "changed by tracing": [r for r in rows if "exact" in r and not r["untouched"]],
        "not trained": [r for r in rows if "exact" in r and not r["trains"]],
        "not loaded": [r for r in rows if "exact" in r and not r["loads"]],
        "convolutional, more than half of the MACs stay": [
            r for r in rows if r["kind"] in CONVOLUTIONAL and good_and_large(r)
        ],
        "traced in more than 10 s": [r for r in rows if r.get("trace_s", 0) > 10],
    }
    return [f"- {what}: {', '.join(map(_short, some))}" for what, some in found.items() if some]


def good_and_large(row: Row) -> bool:
    return "exact" in row and row["least"] > 0.5


def _short(row: Row) -> str:
    detail = row.get("skipped") or row.get("error") or ""
    if not detail and "least" in row:
        detail = f"{row['least']:.0%}, {row['trace_s']} s"
    return f"{row['name']} ({detail})"
