#!/usr/bin/env python3
"""Training throughput: eager, captured (CUDA graph), compiled; whole and pruned; width divisors.

Images/s of ResNet-56 at 3x32x32 (ResNet-20 where there is no GPU), batch 512 (128), random images:
speed does not depend on them. Modes are measured in turns within one run; quote the ratios. Plain
eager PyTorch is contiguous float32-weights training with bf16 autocast on a GPU, float32 on a CPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from benchmark import emit, table
from torch import nn
from torch.nn import functional as F

from pruning import Cost, cut, lattice, trace
from pruning.data.images import ImageSet
from pruning.graph import Problem
from pruning.methods.allocation import spend
from pruning.models.registry import resolve
from pruning.training.loop import finetune
from pruning.training.recipe import Recipe

DIVISORS = (1, 4, 8, 16, 32)


def images(count: int, device: str) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return ImageSet(pixels, labels, (0.5,) * 3, (0.25,) * 3, 10).to(device)


def plain(net: nn.Module, data: ImageSet, batch: int, seconds: float) -> float:
    """Images/s of a training loop as tutorials write it: eager, NCHW, unfused SGD."""
    net = net.to(device=data.device, memory_format=torch.contiguous_format).train()
    optimizer = torch.optim.SGD(net.parameters(), 0.01, 0.9, nesterov=True)
    cuda = data.device.type == "cuda"

    def steps() -> Iterator[int]:
        while True:
            for x, y in data.batches(batch, shuffle=True, augment="crop-flip", drop_last=True):
                with torch.autocast(data.device.type, torch.bfloat16, enabled=cuda):
                    loss = F.cross_entropy(net(x.contiguous()), y, label_smoothing=0.05)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                yield len(y)

    return rate(steps(), seconds, data.device)


def rate(steps: Iterator[int], seconds: float, device: torch.device) -> float:
    """Images/s over at least `seconds`, after three steps that do not count."""
    for _ in range(3):
        next(steps)
    wait(device)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        count += next(steps)
    wait(device)
    return count / (time.perf_counter() - began)


def ours(net: nn.Module, data: ImageSet, recipe: Recipe) -> float:
    """Images/s of the last epoch of `finetune`: capture and warm-up are in the first."""
    return list(finetune(net, data, recipe))[-1].images_per_s


def divided(name: str, divisor: int, seed: int = 0) -> tuple[nn.Module, float]:
    """About half the MACs at random widths that are multiples of `divisor`; its MAC share."""
    net = resolve(name)
    graph = trace(net, (3, 32, 32))
    cost, lat = Cost(graph), lattice(graph, divisor, 0.1)
    rng = np.random.default_rng(seed)
    widths = lat.snap(graph.widths * np.clip(rng.normal(0.55, 0.15, len(graph.groups)), 0.2, 0.9))
    worth = rng.random(len(widths))
    widths = spend(
        Problem(graph, lat), np.minimum(widths, graph.widths), cost.base_macs / 2, lambda _: worth
    )
    keep = tuple(np.arange(w) for w in widths)
    return cut(net, graph, keep), cost.macs(widths) / cost.base_macs


def main() -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet56" if cuda else "resnet20")
    parser.add_argument("--batch", type=int, default=512 if cuda else 128)
    parser.add_argument("--images", type=int, default=50_000 if cuda else 1_280)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = "cuda" if cuda else "cpu"
    data = images(options.images, device)
    recipe = Recipe(epochs=2, batch=options.batch, lr=0.01, augment="crop-flip")
    name, half = options.network, divided(options.network, 8)[0]
    networks: dict[str, Callable[[], nn.Module]] = {
        "whole": lambda: resolve(name),
        "half": lambda: cut_copy(half),
    }
    rows = []
    for label, make in networks.items():
        rates = {"plain": plain(make(), data, options.batch, options.seconds)}
        rates["eager"] = ours(make(), data, replace(recipe, cuda_graph=False))
        if cuda:
            rates["captured"] = ours(make(), data, recipe)
            compiled = torch.compile(make().to(device))
            rates["compiled"] = ours(compiled, data, replace(recipe, cuda_graph=False))
        else:
            rates["fp32"] = ours(make(), data, replace(recipe, precision="fp32"))
        for mode, value in rates.items():
            ratio = value / rates["plain"]
            emit("finetune", network=name, part=label, mode=mode, images_per_s=value, ratio=ratio)
            rows.append((label, mode, round(value), ratio))
    table(f"{name}, batch {options.batch}", ("network", "mode", "images/s", "× plain"), rows)
    rows = []
    for divisor in DIVISORS:
        net, share = divided(name, divisor)
        throughput, latency = ours(net, data, recipe), latency_ms(net, device)
        emit(
            "divisor",
            network=name,
            divisor=divisor,
            macs_share=share,
            images_per_s=throughput,
            latency_ms=latency,
        )
        rows.append((divisor, f"{share:.1%}", round(throughput), latency))
    title = f"{name} at half its MACs, widths random multiples of the divisor"
    table(title, ("divisor", "MACs", "training images/s", "latency of 64 images [ms]"), rows)


def cut_copy(net: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(net)


def latency_ms(net: nn.Module, device: str, repeats: int = 20) -> float:
    x = torch.randn(64, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    net = net.to(device).eval()
    times = []
    with torch.inference_mode():
        for _ in range(repeats + 3):
            wait(x.device)
            began = time.perf_counter()
            net(x)
            wait(x.device)
            times.append(time.perf_counter() - began)
    return 1000 * float(np.median(times[3:]))


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
