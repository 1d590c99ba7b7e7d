"""torchvision's segmentation and detection networks: cut by their own loss, trained, kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning import Samples, load, prune
from pruning.graph import tensors_in
from pruning.models import resolve
from pruning.training import Recipe, fit

SEGMENTATION = ("lraspp_mobilenet_v3_large", "fcn_resnet50", "deeplabv3_resnet50")
DETECTION = ("ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn")
CLASSES = 5


def maps(side: int = 64) -> Samples:
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    y = torch.randint(0, CLASSES, (2, side, side), generator=torch.Generator().manual_seed(1))

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0])["out"], batch[1])

    return Samples([x], [(x, y)], loss)


def boxes(side: int = 96) -> Samples:
    """Lists of images and of dictionaries; the losses are given in training mode only."""
    x = [torch.rand(3, side, side, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    y = [{"boxes": torch.tensor([[10.0, 10, 60, 60]]), "labels": torch.tensor([1])} for _ in x]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        losses: Tensor = sum(model(*batch).values())
        return losses

    return Samples([(x,)], [(x, y)], loss, training=True)


def check(name: str, samples: Samples, folder: Path) -> None:
    torch.manual_seed(0)
    whole = resolve(f"torchvision:{name}", {"num_classes": CLASSES}).eval()
    slim = prune(whole, samples, macs=0.6, method="l2-global")
    assert slim.macs <= 0.6 * slim.base_macs
    source = lambda seed: samples.batches  # noqa: E731
    (result,) = fit(slim.model, source, samples.loss, Recipe(epochs=1, lr=1e-4))
    assert result.train_loss > 0
    slim.save(folder / "slim.safetensors")
    again = load(folder / "slim.safetensors")
    (inputs,) = samples.inputs
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    with torch.no_grad():
        ours, theirs = (list(tensors_in(net(*inputs))) for net in (slim.model, again))
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_lraspp(tmp_path: Path) -> None:
    check("lraspp_mobilenet_v3_large", maps(), tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("name", [*SEGMENTATION, *DETECTION])
def test_real_networks(name: str, tmp_path: Path) -> None:
    check(name, maps() if name in SEGMENTATION else boxes(), tmp_path)
