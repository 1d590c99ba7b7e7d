"""A set of images that is learnt at once."""

from __future__ import annotations

import pytest
import torch

from pruning.data.images import ImageSet


@pytest.fixture(scope="module")
def data() -> ImageSet:
    """Two classes, dark and bright, in noise: easy to learn."""
    torch.manual_seed(0)
    labels = torch.arange(200) % 2
    images = torch.randint(0, 160, (200, 1, 8, 8)) + 90 * labels.view(-1, 1, 1, 1)
    return ImageSet(images.to(torch.uint8), labels, (0.5,), (0.25,), 2)
