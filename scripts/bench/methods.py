#!/usr/bin/env python3
"""One-shot accuracy of the methods: after the cut, BN recalibrated, compensated, fine-tuned.

On trained CIFAR-10 weights. No test image decides anything: methods see training images, the table
shows test accuracy. `compensated` is error feedback for every method's selection, `own_repair` what
belongs to the method; `distilled` is the same fine-tuning with the base model as its teacher.
Example:

    scripts/bench/methods.py --data DATA --weights resnet20_45k.safetensors --macs 0.5
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import replace
from typing import Any

import torch
import trained
from benchmark import emit, table

from pruning import methods, oneshot
from pruning.graph.surgery import cut
from pruning.graph.widths import lattice
from pruning.methods import Problem
from pruning.training.batch_norm import recalibrate
from pruning.training.evaluation import evaluate
from pruning.training.loop import finetune
from pruning.training.recipe import Recipe

COLUMNS = ("cut", "recalibrated", "own_repair", "compensated", "fine_tuned", "distilled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of CIFAR-10")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--methods", default=",".join(methods.names()))
    parser.add_argument("--macs", type=float, nargs="+", default=[0.5], help="shares of the base")
    parser.add_argument("--images", type=int, default=2048, help="training images for statistics")
    parser.add_argument("--repair-images", type=int, default=1000)
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--divisor", type=int, default=None, help="default: automatic")
    parser.add_argument("--epochs", type=float, default=0.5, help="of fine-tuning, 0 for none")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--distill", type=float, default=0.9, help="share of the teacher's loss")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base_net = trained.load(options.network, options.weights, options.data, options.test_images)
    net, graph, train, test = base_net.net, base_net.graph, base_net.train, base_net.test
    seen, few = base_net.few(options.images), base_net.few(options.repair_images)
    problem = Problem(graph, lattice(graph, options.divisor, 0.05))
    base = evaluate(net, test.batches(500))
    emit("base", network=options.network, test_images=len(test), top1=base)
    recipe = Recipe(epochs=options.epochs, batch=options.batch, lr=options.lr)
    rows = []
    for name in options.methods.split(","):
        method = methods.get(name)
        began = time.perf_counter()
        state = method.prepare(net, graph, seen.batches(256))
        prepare_s = time.perf_counter() - began
        for share in options.macs:
            found: dict[str, Any] = {"prepare_s": prepare_s}
            began = time.perf_counter()
            widths = method.allocate(state, problem, share * problem.cost.base_macs)
            found["allocate_s"] = time.perf_counter() - began
            plain = cut(net, graph, method.select(state, problem, widths))
            found["cut"] = evaluate(plain, test.batches(500))
            recalibrate(plain, seen.batches(256))
            found["recalibrated"] = evaluate(plain, test.batches(500))
            own = oneshot.slim(net, problem, method, state, widths, few.batches(100))
            found["own_repair"] = evaluate(own.model, test.batches(500))
            slim = own
            if method.own_repair != "feedback":
                slim = oneshot.slim(
                    net, problem, method, state, widths, few.batches(100), repair="feedback"
                )
            found["repair_s"] = slim.repair_s
            found["compensated"] = evaluate(slim.model, test.batches(500))
            for column, distill in (("fine_tuned", 0.0), ("distilled", options.distill)):
                tuned = copy.deepcopy(slim.model)
                began = time.perf_counter()
                for _ in finetune(tuned, train, replace(recipe, distill=distill), teacher=net):
                    pass
                found[f"{column}_s"] = time.perf_counter() - began
                found[column] = evaluate(tuned, test.batches(500))
            macs = problem.cost.macs(widths) / problem.cost.base_macs
            emit("method", network=options.network, method=name, macs_share=macs, **found)
            shown = [f"{100 * found[column]:.2f}" for column in COLUMNS]
            spent = [round(found[f"{part}_s"], 2) for part in ("prepare", "allocate", "repair")]
            rows.append((name, f"{macs:.1%}", *shown, *spent))
    table(
        f"{options.network}, test top-1 % (base {100 * base:.2f}), {options.epochs:g} epochs",
        ("method", "MACs", *COLUMNS, "prepare s", "allocate s", "repair s"),
        rows,
    )


if __name__ == "__main__":
    main()
