"""A run by latency as people see it: axes, tables and sentences in milliseconds."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import search
from search.commands import compare, frontier
from search.frontier import baselines, correlation, select
from search.pareto import CostAxis
from search.report import frontier_chart, page, tables, times, watching
from search.storage import files, record, results
from tests.search.runs import COST, make_rows, make_run

BASE_MS = 2.0
RUNTIME = "onnxruntime 1.31 float32, CPU, 1 thread"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished run by latency: 1 ms and as much again by MACs, measured a tenth slower."""
    folder = tmp_path_factory.mktemp("run")
    rows = [
        replace(row, predicted_ms=ms, measured_ms=1.1 * ms, measured_iqr_ms=0.05)
        for row in make_rows(30)
        for ms in [1 + row.macs / COST.base_macs]
    ]
    run = make_run(folder, rows)
    found = results.read_record(run)
    axis = CostAxis("latency", BASE_MS, RUNTIME, 4)
    known = {"runtime": RUNTIME, "batch": 4, "predicted_ms": BASE_MS, "measured_ms": 2.2}
    point = {**found["reference_point"], "cost": BASE_MS}
    base = {**found["base"], "latency": known}
    record.update(
        files.open_uri(run), found, objective=axis.to_json(), base=base, reference_point=point
    )
    return run


def test_the_chart_s_axes_and_labels_follow(place: str) -> None:
    run = results.read(place)
    charts = frontier_chart.frontier(run)
    assert list(charts) == ["predicted latency", "MACs", "parameters", "measured latency"]
    titles = [chart["layout"]["xaxis"]["title"]["text"] for chart in charts.values()]
    assert titles[0] == "predicted latency of a batch of 4 [ms]"
    assert titles[1].startswith("MACs for one image [")
    assert titles[3] == "measured latency of a batch of 4 [ms]"
    steps = {
        name: [trace.get("line", {}).get("shape") for trace in chart["data"]]
        for name, chart in charts.items()
    }
    assert "hv" in steps["predicted latency"] and "hv" not in steps["MACs"]
    star = next(t for t in charts["predicted latency"]["data"] if t["name"].startswith("base"))
    assert star["x"] == [BASE_MS]
    hover = frontier_chart.about(run.points[0], run)
    assert f"{run.points[0]['predicted_ms']:.3g} ms (" in hover and "measured" in hover


def test_tables_and_sentences_follow(place: str) -> None:
    run = results.read(place)
    html = page.render(run)
    assert "predicted [ms]" in html and "measured [ms]" in html and RUNTIME in html
    assert "rank correlation 1.00 (Spearman), median error 9.1%" in html
    assert "latency coverage" in html and "MAC coverage" not in html
    assert " latency at " in tables.summary(run)
    assert "predicted [ms], " not in times.note(run)
    drawn = times.chart(run)["data"][1]
    assert drawn["y"] == pytest.approx([1.1 * x for x in drawn["x"]])


def test_from_python_a_result_says_what_it_saves(place: str) -> None:
    found = search.open_run(place)
    assert (found.cost.name, found.cost.base, found.cost.batch) == ("latency", BASE_MS, 4)
    assert found.choose(at_most="1.5ms")["measured_ms"] <= 1.5
    assert found.plot().axes[0].get_xlabel() == "predicted latency of a batch of 4 [ms]"


def test_a_run_by_macs_says_nothing_of_time(tmp_path: Path) -> None:
    run = results.read(make_run(tmp_path, make_rows(12)))
    assert list(frontier_chart.frontier(run)) == ["MACs", "parameters"]
    assert times.note(run) == "" and times.chart(run) == {}


def test_a_run_by_parameters_speaks_of_them(tmp_path: Path) -> None:
    place = make_run(tmp_path, make_rows(12))
    axis = CostAxis("params", COST.base_params)
    record.update(files.open_uri(place), results.read_record(place), objective=axis.to_json())
    run = results.read(place)
    charts = frontier_chart.frontier(run)
    assert list(charts) == ["parameters", "MACs"]
    assert charts["parameters"]["layout"]["xaxis"]["title"]["text"] == "parameters [thousands]"
    assert " parameters at " in tables.summary(run) and "parameters coverage" in page.render(run)
    chosen = select.choose(run.points, select.ChooseOptions(at_most="50%"), run.record)
    assert chosen["params"] <= 0.5 * COST.base_params


def test_points_are_chosen_by_milliseconds(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = results.read_points(place, results.read_record(place))
    options = select.ChooseOptions(at_most="70%")
    chosen = select.choose(found, options, results.read_record(place))
    assert chosen["predicted_ms"] <= 0.7 * BASE_MS
    chosen = select.choose(found, replace(options, at_most="1.5ms"), results.read_record(place))
    assert chosen["measured_ms"] <= 1.5 < chosen["measured_ms"] * 1.2
    frontier.run([place], "slimfront frontier")
    shown = capsys.readouterr().out
    assert "measured" in shown and "rank correlation 1.00" in shown
    frontier.run([place, "--json"], "slimfront frontier")
    assert json.loads(capsys.readouterr().out)["objective"]["runtime"] == RUNTIME


def test_watching_and_comparing_speak_milliseconds(place: str) -> None:
    view = watching.Watcher(place).look()
    drawn = io.StringIO()
    Console(file=drawn, width=120).print(watching.panel(view))
    assert "predicted [ms]" in drawn.getvalue()
    assert view.hypervolume > 0 and "predicted latency of a batch of 4" in watching.plot(view)
    assert view.to_json()["frontier"][0]["cost"] == view.frontier[0].predicted_ms
    axis = view.axis
    points = [
        {"rank": i, "macs": 1, "predicted_ms": ms, "score_test_mean": score}
        for i, (ms, score) in enumerate([(1.0, 0.8), (1.5, 0.9)])
    ]
    shot = {"macs": 0, "predicted_ms": 1.6, "score_test_mean": 0.85}
    beside = baselines.beside(shot, points, axis)
    assert (beside["frontier_rank"], beside["verdict"]) == (1, "dominated by the frontier")
    assert beside["cost_gap"] == pytest.approx(0.1 / BASE_MS)
    assert compare._shares(compare.CompareOptions(budgets="50%"), view.record) == [0.5]


def test_few_networks_tell_no_correlation() -> None:
    pairs = [{"predicted_ms": 1.0, "measured_ms": 1.2}, {"predicted_ms": 2.0, "measured_ms": None}]
    assert correlation.foretold(pairs) is None
    pairs = [{"predicted_ms": p, "measured_ms": m} for p, m in [(1, 2.0), (2, 1.5), (3, 3.0)]]
    found = correlation.foretold(pairs)
    assert found is not None and found.spearman == pytest.approx(0.5)
    assert found.median_error == pytest.approx(1 / 3)
