"""A cache of each test's own, and a small CIFAR-10."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.search.data.sample_sets import random_images, write_parquet


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIMFRONT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A CIFAR-10 of 60 + 20 images in two training files."""
    images = random_images(80)
    root = tmp_path / "hub"
    for name, part in (
        ("train-00000-of-00002", slice(0, 40)),
        ("train-00001-of-00002", slice(40, 60)),
        ("test-00000-of-00001", slice(60, 80)),
    ):
        write_parquet(root / "data" / f"{name}.parquet", images[part], np.arange(80)[part] % 10)
    return root
