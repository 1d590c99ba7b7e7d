"""What a sweep over 450 networks found wrong in tracing and cutting, a test for each number."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.data.images import ImageSet
from pruning.errors import UserError
from pruning.graph.surgery import cut, resize
from pruning.graph.tracing import trace, tracer
from pruning.models.layout import settle
from pruning.models.registry import resolve
from pruning.oneshot import prune
from pruning.training.loop import finetune
from pruning.training.recipe import Recipe


def conv_bn(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Caching(nn.Module):
    """Leaves anchors behind in an attribute, counts its calls in a buffer, keeps an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(3, 8), conv_bn(8, 12))
        self.fc = nn.Linear(12, 5)
        self.register_buffer("calls", torch.zeros(1))
        self.anchors: dict[Any, Tensor] = {}
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1  # type: ignore[operator]
        if x.shape[-1] not in self.anchors:
            self.anchors[x.shape[-1]] = torch.linspace(0, 1, x.shape[-1], device=x.device)
        x = self.body(x * self.anchors[x.shape[-1]])
        self.seen.append(x)
        return self.fc(x.mean((2, 3)))


class Shared(nn.Module):
    """One block under two names, as timm's coat, cait and pit have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        block = conv_bn(8, 8)
        self.serial, self.parallel = nn.ModuleList([block]), nn.ModuleList([block])
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.serial[0](x) + self.parallel[0](x)
        return self.fc(x.mean((2, 3)))


class IndexedByBuffer(nn.Module):
    """Reads channels through an index held in a buffer, as swinv2 its position biases."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv_bn(3, 8), conv_bn(8, 8)
        self.fc = nn.Linear(8, 5)
        self.register_buffer("order", torch.randperm(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.second(self.first(x))[:, self.order].mean((2, 3)))


def everything(net: nn.Module) -> dict[str, Any]:
    """All that can be seen of a network: tensors, flags, gradients and plain attributes."""
    state = {
        name: (
            id(t),
            type(t),
            t.device,
            t.requires_grad,
            t.grad,
            t._version,
            t.detach().clone().tolist(),
        )
        for name, t in (*net.named_parameters(), *net.named_buffers())
    }
    plain = {
        f"{path}.{key}": copy.deepcopy(value)
        for path, module in net.named_modules()
        for key, value in vars(module).items()
        if not key.startswith("_")
    }
    return {"state": state, "plain": plain}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("make", [Caching, Shared, IndexedByBuffer])
def test_finding_1_0_tracing_leaves_the_model_as_it_was(
    make: type[nn.Module], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracer, "SMALL", 0 if device == "meta" else 2**62)
    net = make().train()
    net.get_parameter("fc.bias").grad = torch.ones(5)
    before = everything(net)
    graph = trace(net, (3, 16, 16))
    after = everything(net)
    assert after["plain"].keys() == before["plain"].keys()
    assert all(repr(after["plain"][key]) == repr(value) for key, value in before["plain"].items())
    assert after["state"] == before["state"]
    x = torch.randn(2, 3, 16, 16)
    whole = cut(net.eval(), graph, graph.full_keep())
    torch.testing.assert_close(whole(x), net(x))


def test_finding_1_0_a_shared_module_is_cut_once_and_loaded_again() -> None:
    net = Shared().eval()
    graph = trace(net, (3, 8, 8))
    slim = cut(net, graph, tuple(np.arange(0, group.units, 2) for group in graph.groups))
    assert slim.serial[0] is slim.parallel[0]  # type: ignore[index]
    again = resize(Shared(), {name: t.clone() for name, t in slim.state_dict().items()}).eval()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(again(x), slim(x))
    assert again.serial[0][0].weight is again.parallel[0][0].weight  # type: ignore[index]


def test_finding_1_0_labels_are_not_indexed_by_unknown_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracer, "SMALL", 0)
    graph = trace(IndexedByBuffer(), (3, 8, 8))
    assert [group.name for group in graph.groups] == ["first.0"]


class LeNet(nn.Module):
    """Flattens with `view`, as PyTorch's tutorial does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 5, padding=2), nn.Conv2d(8, 16, 5, padding=2)
        self.fc1, self.fc2 = nn.Linear(16 * 4 * 4, 24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x).relu(), 2)
        x = F.max_pool2d(self.conv2(x).relu(), 2)
        return self.fc2(self.fc1(x.view(x.size(0), -1)).relu())


class Video(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv3d(3, 8, 3, padding=1), nn.BatchNorm3d(8)
        self.conv2, self.fc = nn.Conv3d(8, 12, 3, padding=1), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.norm(self.conv1(x)).relu()).relu()
        return self.fc(x.mean((2, 3, 4)))


def image_set(count: int = 32) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return ImageSet(images, torch.arange(count) % 10, (0.5,) * 3, (0.25,) * 3, 10)


@pytest.mark.parametrize("repair", ["none", "compensate", "feedback"])
def test_finding_1_1_a_network_that_needs_contiguous_maps_is_pruned_and_trained(
    repair: str,
) -> None:
    torch.manual_seed(0)
    net, images = LeNet(), image_set()
    x = next(iter(images.batches(16)))[0]
    assert not x.is_contiguous(), "image sets hand out channels_last"
    found = prune(net, images.batches(16), macs=0.5, method="l2-global", repair=repair)
    assert not net._forward_pre_hooks, "the caller's network is as it was"
    list(finetune(found.model, images, Recipe(epochs=1, batch=16)))
    graph = trace(net, (3, 16, 16))
    whole = cut(net, graph, graph.full_keep())
    list(finetune(whole, images, Recipe(epochs=1, batch=16), teacher=LeNet()))
    assert torch.isfinite(whole(x)).all()


def test_finding_1_1_a_network_of_volumes_is_pruned() -> None:
    net = Video().eval()
    x = torch.randn(4, 3, 4, 8, 8)
    found = prune(net, [(x, torch.zeros(4, dtype=torch.int64))], method="l2-global", repair="none")
    assert found.model(x).shape == (4, 5)


def test_finding_1_1_ordinary_networks_stay_channels_last() -> None:
    net = settle(resolve("digits"), (1, 8, 8))
    assert not net._forward_pre_hooks
    weight = net.get_parameter("layer1.0.conv1.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "peel", "scalars": {"rhoo": 0.3}}, "rhoo"),
        ({"method": "peel", "scalars": {"rho": 99}}, "0.5 to 1"),
        ({"macs": float("nan")}, "nan"),
        ({"macs": float("inf")}, "inf"),
        ({"macs": True}, "True"),
        ({"divisor": -4}, "divisor"),
        ({"divisor": 0}, "divisor"),
        ({"min_ratio": 2.0}, "0 to 1"),
        ({"repair": "glue"}, "glue"),
    ],
)
def test_finding_1_10_numbers_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    x = torch.randn(4, 1, 8, 8)
    with pytest.raises(UserError, match=words):
        prune(resolve("digits"), [(x, torch.zeros(4, dtype=torch.int64))], **options)


def test_finding_1_9_no_images_are_refused_and_an_iterator_is_enough() -> None:
    net = resolve("digits").eval()
    with pytest.raises(UserError, match="no images"):
        prune(net, [])
    x = torch.randn(64, 1, 8, 8)
    found = prune(net, iter([(x, torch.zeros(64, dtype=torch.int64))]), repair="none")
    assert found.model.get_buffer("bn1.running_mean").abs().max() > 0
