"""A finished run of six trials, one failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.search.runs import failed, make_rows, make_run


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deploy")
    rows = make_rows(6)
    rows[5] = failed(rows[5], "RuntimeError: broken")
    make_run(folder, rows)
    return folder
