#!/usr/bin/env python3
"""CaP's claim, checked: time and images that compensation and fine-tuning need for one accuracy.

One network, cut to one vector of widths by one selection. Repairs from a few images, without a
gradient step, beside fine-tunings of BN-recalibrated cuts, each with its own cosine schedule, and
beside fine-tunings that begin from the repair. Test accuracy is printed and decides nothing.
Example:

    scripts/bench/compensation.py --data DATA --weights resnet20_45k.safetensors
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import dataclass

import torch
import trained
from benchmark import emit, table
from torch import nn

from pruning import methods, oneshot
from pruning.graph.surgery import cut
from pruning.graph.widths import lattice
from pruning.methods import Problem
from pruning.training.batch_norm import recalibrate
from pruning.training.evaluation import evaluate
from pruning.training.loop import finetune
from pruning.training.recipe import Recipe


@dataclass(frozen=True)
class Way:
    """A way back to accuracy: images computed with (an epoch's counted each time), seconds."""

    name: str
    images: float
    seconds: float
    top1: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of CIFAR-10")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--method", default="cap", help="whose widths and selection")
    parser.add_argument("--macs", type=float, default=0.5, help="share of the base")
    parser.add_argument("--images", type=int, nargs="*", default=[100, 250, 500, 1000, 2000])
    parser.add_argument("--epochs", type=float, nargs="*", default=[0.1, 0.25, 0.5, 1, 2, 5, 40])
    parser.add_argument("--repaired-epochs", type=float, nargs="*", default=[0.25, 1, 5])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--repaired-lr", type=float, default=0.01)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = trained.load(options.network, options.weights, options.data)
    net, graph, train = base.net, base.graph, base.train
    problem, method = Problem(graph, lattice(graph, None, 0.05)), methods.get(options.method)
    seen = base.few(2048)
    state = method.prepare(net, graph, seen.batches(256))
    widths = method.allocate(state, problem, options.macs * problem.cost.base_macs)
    share = problem.cost.macs(widths) / problem.cost.base_macs

    def score(model: nn.Module) -> float:
        return evaluate(model, base.test.batches(500))

    def note(found: list[Way], way: Way) -> None:
        found.append(way)
        emit("compensation", network=options.network, macs_share=share, **vars(way))

    repairs: list[Way] = []
    tunings: list[Way] = []
    slim = net
    for how in ("compensate", "feedback"):
        for count in options.images:
            few = base.few(count).batches(min(count, 100))
            slimmed = oneshot.slim(net, problem, method, state, widths, few, repair=how)
            slim = slimmed.model
            seconds = slimmed.cut_s + slimmed.repair_s
            note(repairs, Way(f"{how}, {count} images", count, seconds, score(slim)))
    plain = cut(net, graph, method.select(state, problem, widths))
    recalibrate(plain, seen.batches(256))
    note(tunings, Way("BN recalibrated", len(seen), 0.0, score(plain)))
    starts = ((plain, "fine-tuned", options.epochs, options.lr, 0.0),)
    starts += (
        (slim, "repaired + fine-tuned", options.repaired_epochs, options.repaired_lr, seconds),
    )
    for start, name, epochs, lr, before in starts:
        for count in epochs:
            model = copy.deepcopy(start)
            recipe = Recipe(epochs=count, batch=options.batch, lr=lr)
            began = time.perf_counter()
            for _ in finetune(model, train, recipe, seed=0):
                pass
            spent = before + time.perf_counter() - began
            way = Way(f"{name}, {count:g} epochs", count * len(train), spent, score(model))
            note(tunings if start is plain else repairs, way)
    emit("base", network=options.network, top1=score(net))
    show(f"{options.network} at {share:.1%} of its MACs", repairs, tunings)


def show(title: str, repairs: list[Way], tunings: list[Way]) -> None:
    """Each repair beside the shortest fine-tuning that reaches its accuracy."""
    rows = []
    for way in repairs:
        enough = [t for t in tunings if t.top1 >= way.top1]
        peer = min(enough, key=lambda t: t.seconds, default=None)
        found = ["none", "", ""]
        if peer is not None and peer.seconds:
            found = [peer.name, peer.seconds / way.seconds, peer.images / way.images]
        elif peer is not None:
            found[0] = peer.name
        rows.append((way.name, f"{100 * way.top1:.2f}", way.seconds, way.images, *found))
    rows += [(t.name, f"{100 * t.top1:.2f}", t.seconds, t.images, "", "", "") for t in tunings]
    heads = ("as good a fine-tuning", "its time", "its images")
    table(title, ("way", "test top-1 %", "seconds", "images", *heads), rows)


if __name__ == "__main__":
    main()
