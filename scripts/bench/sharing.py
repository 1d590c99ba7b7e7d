#!/usr/bin/env python3
"""Several trainings at a time on one device: what they do together against one alone.

Processes train copies of one network, whole or cut to a share of its MACs, all at the same time;
random images, which speed does not depend on. On a GPU this says which `gpus_per_trial` pays; on a
CPU, whether trials with the threads of their share disturb each other, and trials with all cores'.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from queue import Queue

import numpy as np
import torch
from benchmark import emit, table
from finetune import images

from pruning import Cost, cut, lattice, trace, uniform
from pruning.graph.widths import fit
from pruning.models.registry import resolve
from pruning.training.loop import finetune
from pruning.training.recipe import Recipe


def train(
    found: Queue[tuple[int, float]],
    start: Barrier,
    options: argparse.Namespace,
    share: float,
    threads: int,
) -> None:
    """One process: puts (images trained on, seconds) after its first epoch."""
    torch.set_num_threads(threads)
    net = resolve(options.network)
    graph = trace(net, (3, 32, 32))
    cost, lat = Cost(graph), lattice(graph, 8, 0.1)
    widths = fit(cost, lambda t: uniform(graph, lat, t), share * cost.base_macs)
    slim = cut(net, graph, tuple(np.arange(w) for w in widths))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = images(options.images, device)
    recipe = Recipe(epochs=10_000, batch=options.batch, lr=1e-4, augment="crop-flip")
    epochs = finetune(slim, data, recipe)
    next(epochs)  # capture, kernels, memory
    start.wait()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < options.seconds:
        next(epochs)
        count += options.images // options.batch * options.batch
    found.put((count, time.perf_counter() - began))
    del epochs


def together(options: argparse.Namespace, share: float, processes: int, threads: int) -> float:
    """Images/s of all processes."""
    context = multiprocessing.get_context("spawn")
    found, start = context.Queue(), context.Barrier(processes)
    arguments = (found, start, options, share, threads)
    workers = [context.Process(target=train, args=arguments) for _ in range(processes)]
    for worker in workers:
        worker.start()
    rate = sum(count / seconds for count, seconds in (found.get() for _ in workers))
    for worker in workers:
        worker.join()
    return rate


def main() -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet56" if cuda else "resnet20")
    parser.add_argument("--batch", type=int, default=512 if cuda else 128)
    parser.add_argument("--images", type=int, default=25_600 if cuda else 640)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument(
        "--processes", type=int, nargs="+", default=[1, 2, 4, 8] if cuda else [1, 2]
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1] if cuda else [1, 2])
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.5, 0.1])
    options = parser.parse_args()
    rows = []
    for share in options.shares:
        alone = 0.0
        for threads in options.threads:
            for processes in options.processes:
                rate = together(options, share, processes, threads)
                alone = alone or rate
                emit(
                    "sharing",
                    network=options.network,
                    macs_share=share,
                    processes=processes,
                    threads_each=threads,
                    images_per_s=rate,
                    ratio=rate / alone,
                )
                rows.append((f"{share:.0%}", processes, threads, round(rate), rate / alone))
    heads = ("MACs", "processes", "threads each", "images/s in all", "of one alone")
    table(f"{options.network}, batch {options.batch}", heads, rows)


if __name__ == "__main__":
    main()
