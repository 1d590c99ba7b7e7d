"""How each tool makes a slim network of a trained one: its own API, its own defaults.

Every tool takes a Task and a share of the MACs and returns the network, before any training; the
training is one for all.
"""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from pruning import methods, oneshot
from pruning.data import Images
from pruning.graph import ChannelGraph, Problem, lattice
from pruning.training import Recipe, evaluate, finetune, recalibrate

REPAIR_IMAGES = 1000
HESSIAN_IMAGES = 64
TAYLOR_IMAGES = 512
DIVISOR = 8
LEAST_STEPS = 8
TIMED_STEPS = 4
ROUNDS = 9  # halvings of the ratio that meets the MACs


@dataclass(frozen=True)
class Task:
    """A trained network, images to choose by and images to score a search by."""

    net: nn.Module
    graph: ChannelGraph
    seen: Images
    val: Images

    @property
    def example(self) -> Tensor:
        return torch.zeros(1, *self.seen.shape)

    def few(self, count: int) -> Iterable[tuple[Tensor, Tensor]]:
        return self.seen.subset(slice(0, count)).batches(100)


@dataclass(frozen=True)
class Cut:
    """A slim network and the CPU seconds that it took to find and to make."""

    model: nn.Module
    seconds: float


def macs(net: nn.Module, example: Tensor) -> int:
    """By torch's own counter, for every tool alike."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(example)
    return counter.get_total_flops() // 2


@dataclass(frozen=True)
class Steps:
    """How every network is trained; distill: share of the teacher's loss."""

    batch: int
    lr: float
    distill: float


def train(
    model: nn.Module, images: Images, teacher: nn.Module, seconds: float, seed: int, how: Steps
) -> float:
    """Train in place for as many steps as the CPU seconds allow; the seconds of them."""
    size = how.batch / len(images)

    def run(net: nn.Module, steps: int) -> float:
        recipe = Recipe(epochs=steps * size, batch=how.batch, lr=how.lr, distill=how.distill)
        began = time.process_time()
        for _ in finetune(net, images, recipe, seed=seed, teacher=teacher):
            pass
        return time.process_time() - began

    run(copy.deepcopy(model), 1)  # kernels are chosen
    step = run(copy.deepcopy(model), TIMED_STEPS) / TIMED_STEPS
    steps = int(seconds / step)
    return run(model, steps) if steps >= LEAST_STEPS else 0.0


def slimfront(task: Task, share: float) -> Cut:
    """gain-curve, repaired by error feedback."""
    began = time.process_time()
    problem, method = (
        Problem(task.graph, lattice(task.graph, None, 0.05)),
        methods.get("gain-curve"),
    )
    state = method.prepare(task.net, task.graph, task.seen.batches(256))
    widths = method.allocate(state, problem, share * problem.cost.base_macs)
    found = oneshot.slim(task.net, problem, method, state, widths, list(task.few(REPAIR_IMAGES)))
    return Cut(found.model, time.process_time() - began)


def torch_pruning(importance: str) -> Callable[[Task, float], Cut]:
    """Global pruning by a group importance, at the ratio that meets the MACs; BN recalibrated.

    The seconds are those of the last cut: that the ratio had to be found is not held against it.
    """

    def cut(task: Task, share: float) -> Cut:
        target, low, high = share * macs(task.net, task.example), 0.0, 1.0
        best: Cut | None = None
        for _ in range(ROUNDS):
            middle = (low + high) / 2
            with contextlib.suppress(Exception):  # a ratio that leaves a layer without channels
                found = _once(task, importance, middle)
                if macs(found.model, task.example) <= target:
                    best, high = found, middle
                else:
                    low = middle
                continue
            high = middle
        if best is None:
            raise RuntimeError("no ratio meets the MACs")
        began = time.process_time()
        recalibrate(best.model, task.seen.batches(256))
        return Cut(best.model, best.seconds + time.process_time() - began)

    return cut


def _once(task: Task, importance: str, ratio: float) -> Cut:
    import torch_pruning as tp

    began = time.process_time()
    net = copy.deepcopy(task.net).eval()
    scorer = {
        "group L2": tp.importance.GroupMagnitudeImportance,
        "Taylor": tp.importance.GroupTaylorImportance,
        "Hessian": tp.importance.GroupHessianImportance,
    }[importance]()
    if importance == "Taylor":
        for x, y in task.few(TAYLOR_IMAGES):
            F.cross_entropy(net(x), y).backward()
    if importance == "Hessian":
        scorer.zero_grad()
        for x, y in task.seen.subset(slice(0, HESSIAN_IMAGES)).batches(1):
            net.zero_grad()
            F.cross_entropy(net(x), y).backward()
            scorer.accumulate_grad(net)
    last = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
    pruner = tp.pruner.BasePruner(
        net, task.example, scorer, global_pruning=True, pruning_ratio=ratio, ignored_layers=[last]
    )
    pruner.step()
    return Cut(net, time.process_time() - began)


def fastnas(task: Task, share: float) -> Cut:
    """ModelOpt's FastNAS: the subnet of least degradation under the constraint, widths by eights.

    Its own divisor of 32 leaves small networks nothing to choose.
    """
    import modelopt.torch.prune as mtp
    from modelopt.torch.prune.fastnas import FastNASConfig

    began = time.process_time()
    net = copy.deepcopy(task.net).eval().to(memory_format=torch.contiguous_format)

    def score(model: nn.Module) -> float:
        return evaluate(model, task.val.batches(500))

    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
        settings: dict[str, Any] = {
            "data_loader": list(task.seen.batches(256)),
            "score_func": score,
            "checkpoint": str(Path(place) / "search.pth"),
        }
        space = FastNASConfig().model_dump(by_alias=True)
        for rule in (rule for kind in space.values() for rule in kind.values()):
            rule.update({name: DIVISOR for name in rule if name.endswith("_divisor")})
        limit = {"flops": f"{100 * share:g}%"}
        found, _ = mtp.prune(net, [("fastnas", space)], limit, task.example, settings)
    return Cut(found, time.process_time() - began)


@dataclass(frozen=True)
class Tool:
    """cut: makes the network; rounds: in so many steps, trained in between.

    searches: its own search would leave no time for training, and is not taken off it.
    """

    cut: Callable[[Task, float], Cut]
    rounds: int = 1
    searches: bool = False


TOOLS = {
    "slimfront, one-shot": Tool(slimfront),
    **{
        f"Torch-Pruning, {name}": Tool(torch_pruning(name))
        for name in ("group L2", "Taylor", "Hessian")
    },
    "Torch-Pruning, Taylor, 5 rounds": Tool(torch_pruning("Taylor"), 5),
    "ModelOpt, FastNAS": Tool(fastnas, searches=True),
}
