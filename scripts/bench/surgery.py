#!/usr/bin/env python3
"""Cutting a network to half its channels, against torch-pruning's build + prune, in one run.

Budget: at most a fifth of torch-pruning's time for ResNet-50. torch-pruning prunes the same layers
by the same share; both start from the same whole network, whose copy is part of both times.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch_pruning as tp
from benchmark import emit, interleaved_s, table
from torch import nn

from pruning import cut, trace
from pruning.models.registry import resolve

NETWORKS = {
    "torchvision:resnet50": (3, 224, 224),
    "torchvision:mobilenet_v2": (3, 224, 224),
    "torchvision:vgg16_bn": (3, 224, 224),
    "resnet56": (3, 32, 32),
}


def by_torch_pruning(net: nn.Module, shape: tuple[int, ...], classifier: str) -> nn.Module:
    net = copy.deepcopy(net)
    pruner = tp.pruner.MagnitudePruner(
        net,
        torch.zeros(1, *shape),
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[dict(net.named_modules())[classifier]],
    )
    pruner.step()
    return net


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for name, shape in NETWORKS.items():
        net = resolve(name).eval()
        graph = trace(net, shape)
        keep = tuple(np.arange(max(1, group.units // 2)) for group in graph.groups)
        classifier = graph.layers[-1].name
        times = interleaved_s(
            {
                "ours": lambda n=net, g=graph, k=keep: cut(n, g, k),
                "theirs": lambda n=net, s=shape, c=classifier: by_torch_pruning(n, s, c),
                "trace": lambda n=net, s=shape: trace(n, s),
            },
            repeats=3,
        )
        ratio = times["ours"] / times["theirs"]
        emit("surgery", network=name, ratio=ratio, **{f"{k}_s": v for k, v in times.items()})
        rows.append((name, *(1000 * times[k] for k in ("ours", "theirs", "trace")), ratio))
    table(
        "cut to half the channels [ms]",
        ("network", "cut", "torch-pruning build + prune", "trace (once per model)", "ratio"),
        rows,
    )


if __name__ == "__main__":
    main()
