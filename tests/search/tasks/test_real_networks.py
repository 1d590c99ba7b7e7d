"""Networks of segmentation and detection: cut by their own loss, trained, kept, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning import Samples, UserError, load, prune
from pruning.graph import tensors_in
from pruning.models import checkpoint, resolve
from pruning.oneshot import Slimmed
from pruning.training import Recipe, fit
from search.deploy import formats
from search.deploy import onnx as deploy
from tests.pruning.yolo import STRIDES, Yolo

SEGMENTATION = ("fcn_resnet50", "deeplabv3_resnet50")
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


def grids(side: int = 64) -> Samples:
    """A YOLO's three raw maps, which it gives in training mode alone, as a list."""
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    there = [torch.rand(2, 2, side // s, side // s) < 0.1 for s in STRIDES]

    def loss(model: nn.Module, batch: tuple[Tensor, list[Tensor]]) -> Tensor:
        found = zip(model(batch[0]), batch[1], strict=True)
        each = [F.binary_cross_entropy_with_logits(y[..., 4], t.float()) for y, t in found]
        return torch.stack(each).sum()

    return Samples([x], [(x, there)], loss, training=True)


def check(whole: nn.Module, samples: Samples, folder: Path, origin: bool = True) -> Slimmed:
    slim = prune(whole.eval(), samples, macs=0.6, method="l2-global")
    assert slim.macs <= 0.6 * slim.base_macs
    source = lambda seed: samples.batches  # noqa: E731
    (result,) = fit(slim.model, source, samples.loss, Recipe(epochs=1, lr=1e-4))
    assert result.train_loss > 0
    slim.save(folder / "slim.safetensors")
    again = load(folder / "slim.safetensors", base=None if origin else whole)
    (inputs,) = samples.inputs
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    with torch.no_grad():
        ours, theirs = (list(tensors_in(net(*inputs))) for net in (slim.model, again))
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    return slim


def onnx(slim: Slimmed, folder: Path) -> Any:
    """The ONNX file of a slim network, which deploy has compared; as ONNX Runtime opens it."""
    for package in formats.ONNX_PACKAGES:
        pytest.importorskip(package)
    import onnxruntime

    info = checkpoint.info(folder / "slim.safetensors")
    done = deploy.deploy(slim.model, info, formats.get("onnx"), str(folder), ())
    assert done.deviation <= deploy.TOLERANCE
    return onnxruntime.InferenceSession(done.place, providers=["CPUExecutionProvider"])


def of_torchvision(name: str) -> nn.Module:
    torch.manual_seed(0)
    return resolve(f"torchvision:{name}", {"num_classes": CLASSES})


def test_a_yolo_as_users_write_it(tmp_path: Path) -> None:
    """C3, C2f and SPPF, concatenations, three heads: only the heads' outputs stay whole."""
    torch.manual_seed(0)
    slim = check(Yolo(), grids(), tmp_path, origin=False)
    assert set(slim.graph.fixed) == {"detect.m.0", "detect.m.1", "detect.m.2"}
    session = onnx(slim, tmp_path)
    names = ["output_0", *(f"output_1_{i}" for i in range(len(STRIDES)))]
    assert [each.name for each in session.get_outputs()] == names
    x = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        boxes, maps = slim.model(x)
    for ours, theirs in zip((boxes, *maps), session.run(None, {"images": x.numpy()}), strict=True):
        torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-3, atol=1e-3)


def test_lraspp(tmp_path: Path) -> None:
    slim = check(of_torchvision("lraspp_mobilenet_v3_large"), maps(), tmp_path)
    assert [each.name for each in onnx(slim, tmp_path).get_outputs()] == ["out"]


@pytest.mark.nightly
@pytest.mark.parametrize("name", SEGMENTATION)
def test_segmentation(name: str, tmp_path: Path) -> None:
    slim = check(of_torchvision(name), maps(), tmp_path)
    assert [each.name for each in onnx(slim, tmp_path).get_outputs()] == ["out"]


@pytest.mark.nightly
@pytest.mark.parametrize("name", DETECTION)
def test_detection(name: str, tmp_path: Path) -> None:
    """torch's exporter cannot follow boxes as many as there are: one line, and no file."""
    slim = check(of_torchvision(name), boxes(), tmp_path)
    with pytest.raises(UserError, match=r"cannot be exported as onnx: .*data-dependent") as error:
        onnx(slim, tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "model.onnx").exists()
