"""report.html: its content, without a browser; the run's tables for third-party readers."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pruning.errors import UserError
from search.cli import main
from search.pareto import front
from search.report import charts, frontier_chart, tables
from search.report import page as report
from search.report.importance import importance, surplus
from search.storage import results
from tests.search.runs import COST, make_rows


def figures_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.S)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_size_and_no_network(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    assert len(page.encode()) < 10e6
    own = page.replace(_plotly(), "")
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", own)
    assert "@import" not in own and "url(" not in own


def test_figures_are_valid_plotly(run: Path) -> None:
    """plotly.py knows every property of plotly.js, and refuses others."""
    go = pytest.importorskip("plotly.graph_objects")
    found = figures_of((run / "report.html").read_text(encoding="utf-8"))
    assert set(found) == {
        *("frontier", "progress", "widths", "methods", "importance", "stages", "curves")
    }
    for chart in found.values():
        for figure in [chart] if "data" in chart else chart.values():
            assert figure["data"]
            go.Figure(figure)
            titles = [figure["layout"][axis]["title"]["text"] for axis in ("xaxis", "yaxis")]
            units = [title for title in titles if re.search(r"\[.+\]$", title)]
            assert len(units) == 2 or titles[0] == "stage of a trial"


def test_frontier_chart_shows_what_the_table_has(run: Path) -> None:
    found = results.read(str(run))
    choice = frontier_chart.frontier(found)
    assert list(choice) == ["MACs", "parameters", "latency, batch 1"]
    traces = {trace["name"]: trace for trace in choice["MACs"]["data"]}
    test = traces["frontier, test (mean ± std)"]
    np.testing.assert_allclose(test["x"], [p["macs"] / 1e6 for p in found.points])
    np.testing.assert_allclose(test["y"], [100 * p["score_test_mean"] for p in found.points])
    stds = [100 * p["score_test_std"] for p in found.points]
    np.testing.assert_allclose(test["error_y"]["array"], stds)
    assert len(traces["other trials, val"]["x"]) == len(found.complete) - len(found.points)
    assert traces["peel one-shot"]["y"] == [90.0]
    label = test["text"][3]
    for word in ("point 3", "MACs", "% of base", "val", "±", "channels kept: ", "points/003/"):
        assert word in label
    assert set(choice["latency, batch 1"]["data"][0]["x"]) == {0.5}


def test_progress_ends_at_the_frontier_s_hypervolume(run: Path) -> None:
    found = results.read(str(run))
    volume, coverage = charts.progress(found)["trials"]["data"]
    expected = front.hypervolume(
        front.points_of(found.complete), charts.record.reference(found.record)
    )
    assert volume["y"][-1] == pytest.approx(100 * expected)
    assert all(np.diff(volume["y"]) >= 0) and all(np.diff(coverage["y"]) >= 0)
    assert len(volume["x"]) == sum(row.status != "infeasible" for row in found.rows)


def test_widths_are_shares_of_the_base(run: Path) -> None:
    found = results.read(str(run))
    heat = charts.widths(found)["data"][0]
    first = found.points[0]["widths"]
    whole = [16, 16, 16, 32, 32, 32]
    shares = [100 * w / b for w, b in zip(first, whole, strict=True)]
    np.testing.assert_allclose([row[0] for row in heat["z"]], shares, atol=0.05)
    assert heat["y"][0] == "conv1"


def test_importance_finds_what_matters() -> None:
    """Accuracy beyond that of equal MACs depends on one offset only."""
    rng = np.random.default_rng(0)
    rows = []
    for row in make_rows(200, methods=("uniform",)):
        good = float(row.proposal["params"]["o.layer2.0.conv1"])
        top1 = 0.5 + 0.1 * np.log10(row.macs / COST.base_macs) - 0.05 * good**2
        rows.append(dataclasses.replace(row, score_val=top1 + 0.0005 * float(rng.normal())))
    found = importance(rows)
    assert max(found, key=lambda name: found[name]) == "o.layer2.0.conv1"
    assert sum(found.values()) == pytest.approx(1)
    assert importance(rows[:20]) == {}


def test_surplus_is_what_macs_do_not_explain() -> None:
    rows = make_rows(5)
    for i, (macs, top1) in enumerate([(10, 0.5), (20, 0.6), (30, 0.9), (40, 0.7), (50, 0.95)]):
        rows[i] = dataclasses.replace(rows[i], macs=macs, score_val=top1)
    np.testing.assert_allclose(surplus(rows), [0, 0, 0.1, -0.1, 0], atol=1e-9)


def test_trade_offs_and_failures_in_words(run: Path) -> None:
    found = results.read(str(run))
    for offer in tables.trade_offs(found):
        assert re.fullmatch(r"−\d+\u202f% MACs at [+−±]\d+\.\d points", offer), offer
    text = tables.failures(found)
    assert "&lt;/script&gt;&lt;img" in text
    assert "<img" not in text
    assert "max_macs missed by 3.0%" in text
    stopped = [
        dataclasses.replace(row, status="stopped", reason=f"rank {row.number}")
        for row in found.rows
    ]
    text = tables.failures(dataclasses.replace(found, rows=stopped))
    assert text.count("<tr>") == 2 and f"<td>{len(stopped)}</td>" in text, "one line for all"
    assert f"such as: rank {stopped[0].number}" in text


def test_duckdb_and_pandas_read_the_frontier(run: Path) -> None:
    duckdb = pytest.importorskip("duckdb", reason="needs duckdb (pip install duckdb)")
    path = str(run / "frontier.parquet")
    columns = f"select column_name, column_type from (describe select * from '{path}')"
    kinds = dict(duckdb.sql(columns).fetchall())
    assert kinds["rank"] == "INTEGER"
    assert kinds["macs"] == "BIGINT"
    assert kinds["score_test_mean"] == kinds["latency_ms_b1"] == "DOUBLE"
    assert kinds["widths"] == "INTEGER[]"
    assert kinds["method"] == "VARCHAR"
    query = f"select max(macs), max(widths[1]) from '{path}' where score_test_mean > 0.5"
    assert duckdb.sql(query).fetchall() == [(COST.base_macs, 16)]
    trials = str(run / "trials.parquet")
    assert main(["export", str(run), "--format", "parquet"]) == 0
    counting = f"select count(*) from '{trials}' where status = 'failed'"
    assert duckdb.sql(counting).fetchall() == [(13,)]

    pandas = pytest.importorskip("pandas", reason="needs pandas (pip install pandas)")
    frame = pandas.read_parquet(path)
    assert frame["macs"].dtype == np.int64
    assert frame["score_test_mean"].dtype == np.float64
    assert frame["widths"][0].tolist() == pq.read_table(path)["widths"][0].as_py()
    assert str(pandas.read_parquet(trials)["started_at"].dtype).startswith("datetime64")
    units = {f.name: f.metadata[b"unit"] for f in pq.read_schema(path) if f.metadata}
    numbers = {f.name for f in pq.read_schema(path) if pa.types.is_floating(f.type)}
    assert numbers | {"macs", "params", "widths"} <= set(units)


def test_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no run\.json"):
        report.write(str(tmp_path))


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs().replace("</script", "<\\/script"))
