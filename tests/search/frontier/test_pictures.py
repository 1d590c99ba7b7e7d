"""What a run is about, in the titles of its pictures."""

from __future__ import annotations

from typing import Any

import pytest

from search.frontier.pictures import subject


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"data": {"name": "cifar10", "root": "/data/hub"}}, "resnet20 on cifar10"),
        ({"data": {"name": "parquet", "root": "/data/birds/"}}, "resnet20 on birds"),
        ({"data": {"name": "folder", "root": "s3://b/cars?region=x"}}, "resnet20 on cars"),
        ({"data": {"name": "folder", "root": None}}, "resnet20 on folder"),
        ({"task": "mine:task", "data": {"name": "digits"}}, "mine:task"),
    ],
)
def test_subject(config: dict[str, Any], expected: str) -> None:
    assert subject({"config": {"model": {"name": "resnet20"}, **config}}) == expected
