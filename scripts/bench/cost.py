#!/usr/bin/env python3
"""Width vectors per second through the closed forms of MACs and parameters, on one core.

Budget: a million vectors/s for ResNet-50. Beside it, in the same run: one forward pass on the meta
device, which is what counting by hooks costs for a single vector.
"""

from __future__ import annotations

import numpy as np
import torch
from benchmark import emit, interleaved_s, table
from threadpoolctl import threadpool_limits

from pruning import Cost, trace
from pruning.models.registry import resolve

VECTORS = 200_000
NETWORKS = {
    "torchvision:resnet50": (3, 224, 224),
    "torchvision:mobilenet_v2": (3, 224, 224),
    "torchvision:densenet121": (3, 224, 224),
    "resnet56": (3, 32, 32),
}


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for name, shape in NETWORKS.items():
        net = resolve(name)
        graph = trace(net, shape)
        cost = Cost(graph)
        rng = np.random.default_rng(0)
        widths = rng.integers(1, graph.widths + 1, size=(VECTORS, len(graph.groups)))
        meta, images = net.to("meta").eval(), torch.zeros(1, *shape, device="meta")
        times = interleaved_s(
            {
                "macs": lambda cost=cost, widths=widths: cost.macs(widths),
                "both": lambda cost=cost, w=widths: (cost.macs(w), cost.params(w)),
                "forward": lambda meta=meta, images=images: meta(images),
            }
        )
        rate, both = VECTORS / times["macs"], VECTORS / times["both"]
        gain = times["forward"] / (times["macs"] / VECTORS)
        emit("cost", network=name, groups=len(graph.groups), macs_per_s=rate, both_per_s=both)
        rows.append((name, len(graph.groups), rate / 1e6, both / 1e6, gain))
    table(
        "closed forms on one core",
        ("network", "groups", "MACs [M vectors/s]", "MACs+params [M/s]", "× a meta forward pass"),
        rows,
    )


if __name__ == "__main__":
    with torch.no_grad(), threadpool_limits(1):
        main()
