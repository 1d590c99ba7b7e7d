"""A trained CIFAR-10 network for the benchmarks that ask for accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from pruning.data.images import Images
from pruning.graph.channel_graph import ChannelGraph
from pruning.graph.tracing import trace
from pruning.models.registry import resolve
from pruning.models.weights import load_weights
from search.data import splits as data
from search.data.spec import DataConfig


@dataclass(frozen=True)
class Trained:
    """On the GPU if there is one. few(n): n training images, always the same, shuffled."""

    net: nn.Module
    graph: ChannelGraph
    train: Images
    val: Images
    test: Images

    def few(self, count: int) -> Images:
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(0))
        return self.train.subset(order[:count])


def load(network: str, weights: str, folder: str, test_images: int | None = None) -> Trained:
    """The last 5,000 training images are left out, as validation splits of searches are."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    splits = data.load(DataConfig("cifar10", folder, "last:5000"), 0)
    net = resolve(network)
    load_weights(net, weights)
    net.to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    test = splits.test.subset(slice(0, test_images)).to(device)
    graph, val = trace(net, splits.train.shape), splits.val.to(device)
    return Trained(net, graph, splits.train.to(device), val, test)
