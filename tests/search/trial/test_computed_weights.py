"""Networks whose weights are computed (weight_norm, standardised convolutions) in a search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pruning.data import ImageSet
from pruning.models import registry
from search.config import Config
from search.data import Given, Splits
from search.trial import base_model


def images(count: int = 200) -> ImageSet:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)
    return ImageSet(torch.from_numpy(pixels), torch.arange(count) % 10, (0.5,), (0.5,), 10)


def test_they_are_plain_in_every_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMFRONT_CACHE", str(tmp_path))
    torch.manual_seed(0)
    net = registry.resolve("digits").eval()
    nn.utils.parametrizations.weight_norm(net.get_submodule("conv1"))
    splits = Splits(images(), images(), images())
    config = Config()
    config = replace(config, search=replace(config.search, method="l2-global", seeds=False))
    base = base_model.prepare(config, given=Given(net, splits), say=lambda text: None)
    assert "conv1.weight" in base.weights and "conv1" in base.channel_graph().index
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(base.model(config)(x), net(x))
