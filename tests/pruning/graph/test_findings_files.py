"""Findings 1.12 and 1.14 of the sweep: what a file says is checked, and what was cut is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.errors import UserError
from pruning.graph import cut, trace
from pruning.graph.surgery import resize
from pruning.graph.tracing.verification import irregular
from pruning.models import ModelInfo, load, resolve, save
from tests.pruning.graph.hard_networks import conv, pooled, usual


def info(**changes: Any) -> ModelInfo:
    fields = {"model": "digits", "args": {}, "input_shape": (1, 8, 8), "classes": 10}
    fields |= {"mean": (0.5,), "std": (0.5,), "widths": {}, "digest": ""}
    return ModelInfo(**{**fields, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"model": None},
        {"args": [1]},
        {"args": {"num_classes": -1}},
        {"args": {"num_classes": 50_000_000}},
        {"widths": [1]},
        {"widths": {"conv1": -3}},
        {"widths": {"conv1": "a"}},
        {"classes": "ten"},
        {"classes": 11},
        {"input_shape": (1, -8, 8)},
        {"mean": ("x",)},
    ],
)
def test_finding_1_12_lies_in_a_file_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(resolve("digits"), path, info(**changes))
    with pytest.raises(UserError):
        load(path)


def test_finding_1_12_rows_cut_without_their_readers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(resolve("digits"), path, info())
    with safetensors.safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), safetensors.torch.load_file(path)
    tensors["conv1.weight"] = tensors["conv1.weight"][:5].clone()
    safetensors.torch.save_file(tensors, path, metadata)
    with pytest.raises(UserError, match="does not fit"):
        load(path)
    metadata["info"] = "[" * 100_000
    safetensors.torch.save_file(tensors, path, metadata)
    with pytest.raises(UserError, match="damaged"):
        load(path)
    metadata["numbers"] = json.dumps([["layer1", "training", None, 3]])
    metadata["info"] = info().to_json()
    safetensors.torch.save_file(tensors, path, metadata)
    with pytest.raises(UserError, match="does not fit"):
        load(path)


def test_finding_1_12_shared_weights_come_back_tied() -> None:
    def make() -> nn.Module:
        net = usual(lambda n, x: pooled(n, n.b(n.c(n.a(x)))), c=conv())
        net.c.weight = net.b.weight
        return net.eval()

    net = make()
    graph = trace(net, (3, 8, 8))
    slim = cut(net, graph, irregular(graph))
    again = resize(make(), slim.state_dict())
    assert again.get_parameter("b.weight") is again.get_parameter("c.weight")


class Blur(nn.Module):
    """Blurs with a buffer that is not saved and a number of channels of its own, as timm does."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("filt", torch.ones(channels, 1, 3, 3) / 9, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.filt, padding=1, groups=self.channels)  # type: ignore[arg-type]


def blurred() -> nn.Module:
    return usual(lambda n, x: pooled(n, n.b(n.blur(n.a(x)))), blur=Blur(8)).eval()


def test_finding_1_14_numbers_and_unsaved_buffers_are_cut_and_loaded(tmp_path: Path) -> None:
    net = blurred()
    graph = trace(net, (3, 8, 8))
    assert "a" in graph.index
    slim = cut(net, graph, irregular(graph))
    path, x = tmp_path / "model.safetensors", torch.randn(2, 3, 8, 8)
    save(slim, path, info(model="mine", input_shape=(3, 8, 8), classes=5))
    assert torch.equal(load(path, base=net)(x), slim(x))
