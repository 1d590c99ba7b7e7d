"""What every kind of data set gives: a split's labels, and its images in memory or stored."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from pruning.data import Storage

TEST_NAMES = ("test", "validation", "valid", "val")
"""Splits that serve as test, the first that exists."""


@dataclass(frozen=True)
class Source:
    """One split. pixels: uint8 [N, H, W, C], or storage: to be streamed at `size`."""

    labels: np.ndarray  # int64 [N]
    classes: int
    size: int
    pixels: np.ndarray | None = None
    storage: Storage | None = None


class Reader(Protocol):
    def require(self, split: str) -> object:
        """UserError where there is no such split; decodes nothing."""

    def read(self, split: str) -> Source: ...


def cache_folder() -> Path:
    """Where decoded images are kept on this machine."""
    return Path(os.environ.get("SLIMFRONT_CACHE") or "~/.cache/slimfront").expanduser()
