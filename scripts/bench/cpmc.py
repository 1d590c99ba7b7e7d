#!/usr/bin/env python3
"""CPMC on VGG-16-BN (CIFAR-10) at 106.7 M MACs: which a, b give the quoted 1.04 M parameters.

Usage: scripts/bench/cpmc.py path/to/vgg16_bn.safetensors [--divisor 1]
Prints one line of text and one JSON line. Structure only: no image is read, nothing is trained.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pruning.graph.tracing import trace
from pruning.graph.widths import lattice
from pruning.methods import Problem
from pruning.methods.cpmc import CPMC
from pruning.models import registry
from pruning.models import weights as trained

MACS, PARAMS = 106.7e6, 1.04e6  # quoted by a third party beside 93.40 % (base 93.90 %)
GRID = (np.arange(41) / 20).tolist()  # of a and of b: 0 to 2 in steps of 0.05


def measure(weights: Path, divisor: int = 1, grid: Sequence[float] = GRID) -> dict[str, Any]:
    """The a, b of the grid (which has 1) whose network comes closest to the quoted parameters."""
    net = registry.resolve("vgg16_bn")
    trained.load_weights(net, weights)
    graph = trace(net.eval(), (3, 32, 32))
    method, problem = CPMC(), Problem(graph, lattice(graph, divisor))
    state = method.prepare(net, graph, [])
    began = time.perf_counter()
    pairs = list(itertools.product(grid, repeat=2))
    widths = np.array([method.allocate(state, problem, MACS, a=a, b=b) for a, b in pairs])
    seconds = time.perf_counter() - began
    params = problem.cost.params(widths)
    best = int(np.abs(params - PARAMS).argmin())
    return {
        "benchmark": "cpmc-vgg16",
        "a": pairs[best][0],
        "b": pairs[best][1],
        "macs": problem.cost.macs(widths[best]),
        "params": int(params[best]),
        "widths": widths[best].tolist(),
        "default_params": int(params[pairs.index((1.0, 1.0))]),
        "pairs": len(pairs),
        "within_5_percent": int((np.abs(params / PARAMS - 1) <= 0.05).sum()),
        "base_macs": problem.cost.base_macs,
        "base_params": problem.cost.base_params,
        "quoted_macs": MACS,
        "quoted_params": PARAMS,
        "divisor": divisor,
        "ms_per_allocation": round(1e3 * seconds / len(pairs), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="CPMC's published VGG-16 point")
    parser.add_argument("weights", type=Path, help="VGG-16-BN on CIFAR-10, a safetensors file")
    parser.add_argument("--divisor", type=int, default=1, help="widths are multiples of it (1)")
    arguments = parser.parse_args()
    found = measure(arguments.weights, arguments.divisor)
    print(
        f"CPMC, VGG-16-BN: a = {found['a']:g}, b = {found['b']:g}: "
        f"{found['macs'] / 1e6:.2f} M MACs, {found['params'] / 1e6:.3f} M parameters "
        f"(quoted {MACS / 1e6:g} M and {PARAMS / 1e6:g} M; a = b = 1 gives "
        f"{found['default_params'] / 1e6:.3f} M; {found['within_5_percent']} of {found['pairs']} "
        "pairs come within 5 %)"
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
