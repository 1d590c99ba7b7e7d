"""The traced groups: against torch-pruning, against hand-written facts, and as plain data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from pruning.graph.channel_graph import ChannelGraph
from pruning.graph.tracing import trace
from pruning.graph.tracing.watching import BOXES
from tests.pruning import sample_models


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "densenet40", "vgg16_bn"])
def test_same_coupling_as_torch_pruning(name: str) -> None:
    """Every group of torch-pruning's dependency graph is one of ours: same layers, same axes."""
    tp = pytest.importorskip("torch_pruning", reason="the reference tracer is a dev extra")
    net, graph = sample_models.model(name), sample_models.graph(name)
    dependencies = tp.DependencyGraph().build_dependency(net, sample_models.images(name))
    names = {module: path for path, module in net.named_modules()}
    theirs = set()
    for group in dependencies.get_all_groups(root_module_types=(nn.Conv2d, nn.Linear)):
        out_layers = {
            names[item.dep.target.module]
            for item in group
            if isinstance(item.dep.target.module, (nn.Conv2d, nn.Linear))
            and dependencies.is_out_channel_pruning_fn(item.dep.handler)
        }
        theirs.add(frozenset(out_layers))
    ours = {frozenset(graph.layers[i].name for i in producers) for producers in graph.producers}
    classifier = frozenset({graph.layers[-1].name})
    assert theirs - {classifier} == ours


@pytest.mark.parametrize("name", [*sample_models.MODELS, *sample_models.MORE_SHAPES])
def test_classifier_is_fixed_and_json_is_lossless(name: str) -> None:
    graph = sample_models.graph(name)
    assert graph.layers[-1].name in graph.fixed
    again = ChannelGraph.from_json(graph.to_json())
    assert again.to_json() == graph.to_json() and again.digest() == graph.digest()
    assert again.groups == graph.groups and again.layers == graph.layers
    for key, units in graph.axes.items():
        np.testing.assert_array_equal(again.axes[key], units)


def test_resnet_streams() -> None:
    graph = sample_models.graph("resnet20")
    assert [graph.groups[i].channels for i in (0, 1)] == [16, 16]
    stream = graph.index["conv1"]
    writers = {graph.layers[i].name for i in graph.producers[stream]}
    assert writers == {"conv1", "layer1.0.conv2", "layer1.1.conv2", "layer1.2.conv2"}
    assert len(graph.groups) == 12  # three streams, nine inner groups


def test_depthwise_is_coupled_and_not_a_reader() -> None:
    graph = sample_models.graph("mobilenet_v2")
    inner = graph.index["features.2.conv.0.0"]
    assert [graph.layers[i].name for i in graph.producers[inner]] == [
        "features.2.conv.0.0",
        "features.2.conv.1.0",
    ]
    assert [graph.layers[i].name for i in graph.consumers[inner]] == ["features.2.conv.2"]


def test_flatten_repeats_each_channel() -> None:
    graph = sample_models.graph("torchvision:vgg11_bn")
    units = graph.axes["classifier.0.weight", 1]
    assert (np.bincount(units)[units] == 49).all()


def test_grouped_convolution_has_granularity() -> None:
    graph = sample_models.graph("torchvision:resnext50_32x4d")
    group = graph.groups[graph.index["layer1.0.conv1"]]
    assert (group.channels, group.granularity, group.units) == (128, 4, 32)


class _OptionA(nn.Module):
    """Shortcut that pads channels with zeros, as in the first CIFAR ResNets."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 12, 3, padding=1)
        self.outer = nn.Conv2d(12, 16, 3, padding=1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        padded = nn.functional.pad(x, (0, 0, 0, 0, 4, 4))
        return self.fc((self.outer(self.inner(x).relu()) + padded).mean((2, 3)))


class _HardCoded(nn.Module):
    """One layer's width is written into the forward pass; the other is free."""

    def __init__(self) -> None:
        super().__init__()
        self.free = nn.Conv2d(3, 8, 3)
        self.sized = nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.sized(self.free(x).relu()).relu(), 2)
        return self.fc(x.reshape(-1, 32))


class _Exotic(nn.Module):
    """A softmax over channels mixes them: its channels are fixed, the others are not."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x).relu()).softmax(1)
        return self.fc(x.mean((2, 3)))


def test_zero_padded_shortcut_fixes_only_the_padded_channels() -> None:
    graph = trace(_OptionA(), (3, 8, 8))
    assert graph.fixed["outer"].startswith("8 of 16 channels")
    assert {group.name: group.channels for group in graph.groups} == {"stem": 8, "inner": 12}


def test_a_width_written_into_the_code_is_fixed_by_name() -> None:
    graph = trace(_HardCoded(), (3, 12, 12))
    assert [group.name for group in graph.groups] == ["free"]
    assert "needs this channel count" in graph.fixed["sized"]


def test_unknown_operation_fixes_its_own_channels() -> None:
    net = _Exotic().train()
    graph = trace(net, (3, 12, 12))
    assert [group.name for group in graph.groups] == ["first"]
    assert "softmax" in graph.fixed["second"]
    assert all(module.training for module in net.modules()), "tracing left the model as it was"


def test_kept_units_refuses_an_empty_group() -> None:
    graph = sample_models.graph("resnet20")
    with pytest.raises(ValueError, match="conv1"):
        graph.kept_units((np.array([], dtype=np.int64), *graph.full_keep()[1:]))


def test_a_detector_is_checked_on_few_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs are of all its boxes, which one pass of them tells."""
    torch.manual_seed(0)
    net = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, min_size=64, max_size=64
    ).eval()
    head, boxes = torchvision.models.detection.faster_rcnn.TwoMLPHead, []
    forward = head.forward

    def counted(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        boxes.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(head, "forward", counted)
    graph = trace(net, ([torch.rand(3, 64, 64)],))
    assert boxes[0] > BOXES and len(boxes) > 2 and max(boxes[1:]) <= BOXES
    assert "roi_heads.box_head.fc6" in graph.index
    fc6 = next(layer for layer in graph.layers if layer.name == "roi_heads.box_head.fc6")
    assert fc6.positions == boxes[0]
