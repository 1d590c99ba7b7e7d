"""The built site, the README's length, and the files that CONTRIBUTING names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import REPOSITORY

WORDS = 1300


def test_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().split()) <= WORDS


@pytest.mark.parametrize(
    "page", ["CONTRIBUTING.md", "docs/architecture.md", "scripts/bench/README.md"]
)
def test_files_that_are_named_exist(page: str) -> None:
    text = (REPOSITORY / page).read_text()
    if page.startswith("scripts/"):
        places = [REPOSITORY / "scripts/bench" / name for name in re.findall(r"`(\w+\.\w+)`", text)]
    else:
        roots = "pruning|search|tests|scripts|docs|clusters|examples"
        named = re.findall(rf"`((?:{roots})(?:/[\w.-]+)+/?)`", text)
        places = [REPOSITORY / name for name in named]
    assert len(places) >= 10 or page == "docs/architecture.md"
    assert not [str(place) for place in places if not place.exists()]


def test_contributing_shows_ten_tasks() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    table = text[text.index("[start:tasks]") : text.index("[end:tasks]")]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 10
    for row in rows:
        assert re.search(r"`(pruning|search)/", row), row


def test_every_benchmark_has_its_line() -> None:
    text = (REPOSITORY / "scripts/bench/README.md").read_text()
    scripts = sorted(path.name for path in (REPOSITORY / "scripts/bench").glob("*.py"))
    assert not [name for name in scripts if f"`{name}`" not in text]


SCRIPTS = [
    path
    for path in sorted((REPOSITORY / "scripts").rglob("*.py"))
    if "__main__" in path.read_text() and path.name != "search.py"  # which Ray gives to python
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_can_be_called_as_the_docs_call_it(script: Path) -> None:
    assert os.access(script, os.X_OK) and script.read_text().startswith("#!/usr/bin/env python3")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built as scripts/docs builds it."""
    pytest.importorskip("material", reason="needs mkdocs-material (the docs extra)")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir"]
    # a proxy that leads nowhere: whatever wants the network fails
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    built = subprocess.run(
        [*command, str(folder)],
        cwd=REPOSITORY,
        env=os.environ | nowhere | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    fetched = re.compile(
        r"<(?:script|img|iframe|source)[^>]+src=[\"']?(?:https?:)?//[^\s\"'>]+"
        r"|<link(?![^>]*rel=[\"']?canonical)[^>]+href=[\"']?(?:https?:)?//[^\s\"'>]+"
    )
    pages = list(site.rglob("*.html"))
    assert len(pages) >= 10
    assert not {hit for page in pages for hit in fetched.findall(page.read_text())}


def test_every_page_is_in_the_menu(site: Path) -> None:
    menu = (site / "index.html").read_text()
    pages = [path.relative_to(site).as_posix() for path in site.rglob("*.html")]
    missing = [page for page in pages if page != "404.html" and f'href="{page}"' not in menu]
    assert missing in ([], ["index.html"])


def test_api_reference_has_docstrings(site: Path) -> None:
    text = (site / "api.html").read_text()
    for name in ("pruning.prune", "pruning.load", "pruning.trace", "search.config.schema"):
        assert f'id="{name}"' in text, name
    assert "One-shot: a copy of" in text
