"""report.html: its content, and what a real browser makes of it; tables for third-party readers."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pruning.errors import UserError
from search.cli import main
from search.deploy import latencies
from search.frontier.baselines import COLUMNS
from search.pareto import TOP1, front
from search.report import charts, frontier_chart, tables
from search.report import page as report
from search.report.importance import importance, surplus
from search.storage import results, table_schema
from tests.search.runs import COST, failed, make_rows, make_run

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
LATENCIES = {"latency_ms_b1": 0.5, "latency_iqr_ms_b1": 0.1, "latency_device": "a <chip>"}


def compared(folder: Path) -> None:
    row = {"method": "peel", "asked_share": 0.5, "macs": 500_000, "params": 20_000}
    row |= {"score_test_mean": 0.9, "score_test_std": 0.01, "score_gap": 0.012, "cost_gap": -0.05}
    schema = table_schema(COLUMNS, TOP1)
    pq.write_table(pa.Table.from_pylist([row], schema=schema), folder / "comparison.parquet")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 trials: three methods, failures with a hostile reason, latencies and a comparison."""
    folder = tmp_path_factory.mktemp("runs") / "big"
    rows = make_rows(500, methods=("uniform", "balanced", "peel"))
    for number in range(7, 500, 40):
        rows[number] = failed(rows[number], "</script><img src=x onerror=alert(1)> & broke")
    for number in range(9, 500, 60):
        rows[number] = failed(rows[number], "max_macs missed by 3.0%", "infeasible")
    make_run(folder, rows)
    table = pq.read_table(folder / "frontier.parquet")
    timed = latencies.add_columns(table, [LATENCIES] * table.num_rows, LATENCIES)
    pq.write_table(timed, folder / "frontier.parquet")
    compared(folder)
    assert main(["report", str(folder)]) == 0
    return folder


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


# what a browser makes of it


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM:
        pytest.skip("needs chromium (Debian: apt-get install chromium)")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright (pip install playwright)"
    )
    with playwright.sync_playwright() as started:
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = started.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


def opened(browser: Any, path: Path, width: int = 1280) -> Any:
    """The page with all charts drawn; it must neither complain nor ask the network."""
    page = browser.new_page(viewport={"width": width, "height": 850})
    complaints: list[str] = []
    page.on(
        "console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda r: complaints.append(r.url) if "file://" not in r.url else None)
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-drawn=all]", timeout=60_000)
    assert complaints == []
    return page


def colours(page: Any, selector: str) -> int:
    """Different colours in the picture of an element."""
    image = pytest.importorskip("PIL.Image")
    shot = page.locator(selector).first.screenshot()
    return len(image.open(io.BytesIO(shot)).convert("RGB").getcolors(1 << 24))


def test_every_chart_is_drawn(browser: Any, run: Path) -> None:
    page = opened(browser, run / "report.html")
    charts = page.locator("[data-plot]")
    assert charts.count() == 7
    for i in range(6):
        name = charts.nth(i).get_attribute("data-plot")
        assert colours(page, f"[data-plot={name}] .plot") > 20, f"{name} is blank"
    assert page.locator("[data-plot=frontier] .point").count() > 400
    page.close()


def test_hovering_shows_the_point_and_the_switch_works(browser: Any, run: Path) -> None:
    page = opened(browser, run / "report.html")
    marker = page.locator("[data-plot=frontier] .trace.scatter").nth(1).locator(".point").last
    box = marker.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    label = page.locator("[data-plot=frontier] .hoverlayer .hovertext")
    label.first.wait_for(timeout=10_000)
    assert "point" in label.first.text_content() and "channels kept" in label.first.text_content()
    title = page.locator("[data-plot=frontier] .xtitle")
    assert title.text_content() == "MACs for one image [millions]"
    page.get_by_role("button", name="latency, batch 1").click()
    page.wait_for_function(
        "document.querySelector('[data-plot=frontier] .xtitle').textContent.includes('[ms]')"
    )
    page.close()


def test_on_a_phone_only_tables_scroll(browser: Any, run: Path) -> None:
    page = opened(browser, run / "report.html", width=390)
    page.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for plot in page.locator(".plot").all():
        box = plot.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    overlaps = page.evaluate(OVERLAPS)
    assert overlaps == []
    page.close()


@pytest.mark.parametrize("width", [1280, 760])
def test_nothing_overlaps(browser: Any, run: Path, width: int) -> None:
    page = opened(browser, run / "report.html", width)
    assert page.evaluate(OVERLAPS) == []
    page.close()


def test_it_prints(browser: Any, run: Path) -> None:
    page = opened(browser, run / "report.html")
    assert page.pdf(format="A4").startswith(b"%PDF")
    assert page.locator("details[open]").count() == 0, "as it was before printing"
    page.close()


@pytest.mark.parametrize("case", ["empty", "failures", "one", "interrupted", "bare"])
def test_runs_that_did_not_get_far(browser: Any, tmp_path: Path, case: str) -> None:
    rows = {
        "empty": [],
        "failures": [failed(row, "RuntimeError: broken") for row in make_rows(3)],
        "one": make_rows(1),
        "interrupted": make_rows(5),
        "bare": make_rows(2),
    }[case]
    status = "complete" if case == "one" else "interrupted"
    make_run(tmp_path, rows, status=status)
    if case == "bare":  # a record of little, and no base model
        (tmp_path / "run.json").write_text('{"format": 1, "config": {}, "status": "failed"}')
        (tmp_path / "base.safetensors").unlink()
    page = opened(browser, Path(report.write(str(tmp_path))))
    text = page.locator("body").inner_text()
    if case in ("empty", "failures"):
        assert "No trial has finished yet" in text
    else:
        assert colours(page, "[data-plot=frontier] .plot") > 20
    if case == "failures":
        assert "RuntimeError: broken" in text
    if status == "interrupted":
        assert f"The run is {'failed' if case == 'bare' else 'interrupted'}" in text
    page.close()


# labels of one chart that cover each other by more than a pixel or two: what a reader would call
# overlapping. Ticks, titles, legends; not markers, which may.
OVERLAPS = """() => {
  const found = [];
  for (const section of document.querySelectorAll("[data-plot]")) {
    const texts = [...section.querySelectorAll(
      ".xtick text, .ytick text, .xtitle, .ytitle, .legendtext, .cbtitle, .cbaxis text")];
    const boxes = texts.map(t => [t.textContent, t.getBoundingClientRect()]);
    for (let i = 0; i < boxes.length; i++) for (let j = 0; j < i; j++) {
      const [a, b] = [boxes[i][1], boxes[j][1]];
      const w = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const h = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (w > 2 && h > 4) found.push([section.dataset.plot, boxes[i][0], boxes[j][0], w, h]);
    }
  }
  return found;
}"""


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs().replace("</script", "<\\/script"))
