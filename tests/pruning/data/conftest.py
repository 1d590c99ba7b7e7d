"""A set of photographs on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pruning.data.storage import local_files
from pruning.data.streams import StreamSet
from tests.pruning.data.sample_streams import MEAN, STD, jpeg, photograph


@pytest.fixture
def photographs(tmp_path: Path) -> StreamSet:
    """100 JPEGs of several sizes; label and row are one."""
    paths = []
    for i in range(100):
        paths.append(str(tmp_path / f"{i:03}.jpg"))
        Path(paths[-1]).write_bytes(jpeg(photograph(40 + i % 7, 50 + i % 5, i)))
    rows = np.arange(100)
    return StreamSet(local_files(paths), rows, torch.from_numpy(rows), 32, MEAN, STD, 100)
