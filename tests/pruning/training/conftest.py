"""One thread, and a set of images that is learnt at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pruning.data.images import ImageSet


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny networks gain nothing from two, and lose much where the cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data() -> ImageSet:
    """Two classes, dark and bright, in noise: easy to learn."""
    torch.manual_seed(0)
    labels = torch.arange(200) % 2
    images = torch.randint(0, 160, (200, 1, 8, 8)) + 90 * labels.view(-1, 1, 1, 1)
    return ImageSet(images.to(torch.uint8), labels, (0.5,), (0.25,), 2)
