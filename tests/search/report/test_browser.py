"""report.html in a real browser: its charts are drawn, nothing overlaps, it prints."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from search.report import page as report
from tests.search.runs import failed, make_rows, make_run

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


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
