"""Above the tasks nothing knows what a task is about."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SEARCH = Path(__file__).parents[3] / "search"
BELOW = ("tasks", "data", "config", "pareto")  # and what tasks themselves stand on
MODULES = [
    path
    for path in sorted(SEARCH.rglob("*"))
    if path.suffix in (".py", ".pyi", ".html") and path.relative_to(SEARCH).parts[0] not in BELOW
]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(SEARCH)))
def test_nothing_speaks_of_classes_labels_or_top1(module: Path) -> None:
    assert not re.findall(r"\b(?:top1|labels|classes)\b", module.read_text())
