#!/usr/bin/env python3
"""Size of the report of a run of 500 trials, and time until a browser has drawn all its charts.

The trials are a search on the surface of ResNet-56 (surface.py). Needs playwright and a chromium.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark import emit
from playwright.sync_api import sync_playwright
from surface import Surface
from surface_search import Bench, Variant, outcome_of

from search.config import loader
from search.config.schema import Config
from search.report import page as report
from search.storage import record
from search.storage.results import Results, so_far
from search.storage.row import Row


def search(bench: Bench, trials: int) -> list[Row]:
    noisy, study = Surface(), bench.study(Variant(), 0)
    while study.finished < trials and (candidate := study.ask()):
        curve = noisy.curve(candidate.widths or ())
        at = f"2026-01-01T{study.finished // 60:02d}:{study.finished % 60:02d}:00+00:00"
        outcome = replace(
            outcome_of(candidate, curve),
            score_pruned=float(curve[0] / 2),
            curve=tuple(curve[1:].tolist()),
            wall_s=60.0,
            started_at=at,
        )
        study.tell(candidate.trial_id, outcome)
    return list(study.rows)


def page(bench: Bench, rows: list[Row]) -> str:
    base = {"macs": bench.cost.base_macs, "params": bench.cost.base_params, "model": "resnet56"}
    base |= {"score_val": 0.94, "score_test": 0.94}
    base |= {"groups": [group.name for group in bench.graph.groups]}
    settings = replace(Config(), out="RUN")
    return report.render(
        Results(
            place="RUN",
            record=record.create(settings, base) | {"config": loader.to_dict(settings)},
            rows=rows,
            points=so_far(rows),
            finished=False,
            comparison=(),
            base_latency={},
            base_widths={group.name: group.channels for group in bench.graph.groups},
        )
    )


def drawn_s(browser: Any, file: Path) -> float:
    tab = browser.new_page(viewport={"width": 1280, "height": 850})
    began = time.perf_counter()
    tab.goto(file.as_uri())
    tab.wait_for_selector("html[data-drawn=all]", timeout=60_000)
    spent = time.perf_counter() - began
    tab.close()
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=500)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    bench = Bench()
    rows = search(bench, options.trials)
    began = time.perf_counter()
    text = page(bench, rows)
    spent = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        file = Path(folder) / "report.html"
        file.write_text(text, encoding="utf-8")
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        times = [drawn_s(browser, file) for _ in range(6)][1:]
        browser.close()
    emit(
        "report",
        trials=len(rows),
        megabytes=len(text.encode()) / 1e6,
        render_s=spent,
        drawn_s_median=statistics.median(times),
        drawn_s_least=min(times),
    )


if __name__ == "__main__":
    main()
