"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

# what they compared is shown where they fail, as of test modules
pytest.register_assert_rewrite(
    "tests.search.commands.refusal", "tests.search.data.sample_sets", "tests.search.study.studies"
)

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small networks gain nothing from more, and lose much on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with CIFAR-10 and trained weights; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("SLIMFRONT_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "weights").is_dir():
        pytest.skip(f"needs trained weights and data in {folder} (set SLIMFRONT_SHARED)")
    return folder
