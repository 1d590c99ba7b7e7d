"""One trial: cut, repair, recalibrate, score, fine-tune. No Ray in here."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from pruning import UserError, methods, oneshot
from pruning.data import Workspace, trim_heap
from pruning.methods import Problem, State
from pruning.models import checkpoint, files
from pruning.oneshot import Parent
from pruning.slimmed import Slimmed
from pruning.training import EpochResult, Recipe
from search.config import Config
from search.storage import REPAIRED, TUNED, WHOLE
from search.study import Candidate
from search.tasks import Workload
from search.trial.attempts import Report, guarded
from search.trial.base_model import BaseModel
from search.trial.budget import workspace
from search.trial.memory import keep_heap, keep_kernels
from search.trial.states import Repaired, scored_epochs

FATAL = "fatal"  # key of a report: the search must end, its `reason` is a UserError's
Open = Callable[[Config, BaseModel, str], Any]
Body = Callable[[Any, Any], Iterator[Report]]
"""A trial: (what its worker opened once, what to run) → reports, the last with a `status`."""


@dataclass(frozen=True)
class TrialContext:
    """What all trials of one worker share, on its device; made once, never modified.

    task: what is trained and scored, and on what.
    """

    config: Config
    base: BaseModel
    model: nn.Module
    problem: Problem
    task: Workload
    states: Mapping[str, State]
    device: str
    workspace: Workspace = field(default_factory=Workspace)

    @classmethod
    def open(
        cls,
        config: Config,
        base: BaseModel,
        device: str = "cpu",
        say: Callable[[str], object] | None = None,
    ) -> TrialContext:
        """say: told now and then how far a repair is."""
        problem = base.problem(config.search)
        keep_heap()
        keep_kernels(len(problem.graph.layers))
        task = base.task(config, device)
        model = task.settle(base.model(config))
        return cls(
            config=config,
            base=base,
            model=model,
            problem=problem,
            task=task,
            states=base.states,
            device=device,
            workspace=workspace(config, problem.graph, device, say),
        )

    def score(self, model: nn.Module, split: str = "val") -> float:
        """The task's metric on val or test."""
        return self.task.score(model, split)

    def before(self, model: nn.Module, score: float) -> Repaired:
        """A network of this score, before its training, to fall back on."""
        return Repaired(model, score, self.task.metric)


def run(work: TrialContext, candidate: Candidate) -> Iterator[Report]:
    """Reports of one trial: after the cut, after each epoch, and last one with a `status`."""
    attempt = partial(_attempt, work, candidate)
    return guarded(attempt, work.config.finetune.recipe(), work.device, halves=work.task.halves)


def seed_of(config: Config, arch_hash: str) -> int:
    """The trial's seed: the same for the same architecture, whenever and wherever it runs."""
    return (int(arch_hash[:7], 16) + config.seed) % 2**31


def slim(
    work: TrialContext,
    method: str,
    widths: np.ndarray,
    scalars: Mapping[str, float],
    parent: str = "",
) -> Slimmed:
    """Cut to widths as the method selects, and repair, before any training.

    What is cut: the base model, or what the trial `parent` has left (else FileNotFoundError).
    """
    found = oneshot.slim(
        work.model,
        work.problem,
        methods.get(method),
        work.states[method],
        widths,
        replace(work.task.samples(), workspace=work.workspace),
        repair=work.config.search.repair,
        score=work.score,
        scalars=scalars,
        parent=_parent(work, parent) if parent else None,
    )
    trim_heap()  # a repair takes more than the training that follows
    return found


def kept(work: TrialContext, place: str) -> nn.Module:
    """A network that a trial has left, on the device. UserError where it cannot be read."""
    return work.task.settle(checkpoint.load(place, base=work.base.model(work.config)))


def _parent(work: TrialContext, name: str) -> Parent:
    place = _weights(work, name)
    try:
        widths = checkpoint.info(place).widths
        model = kept(work, place)
    except UserError as error:  # this trial's matter, not the search's
        raise FileNotFoundError(f"its parent {name} is gone ({error})") from error
    return Parent(model, [widths[group.name] for group in work.problem.graph.groups])


def _weights(work: TrialContext, name: str) -> str:
    """Where a trial leaves its network."""
    return files.join(work.config.out, "checkpoints", f"{name}.safetensors")


def tune(
    work: TrialContext, model: nn.Module, recipe: Recipe, seed: int, **settings: Any
) -> Iterator[tuple[EpochResult, float]]:
    """Fine-tune `model` with the base model as teacher; each epoch's result and score on val."""
    return scored_epochs(model, work.task, recipe, seed, teacher=work.model, **settings)


def save(work: TrialContext, model: nn.Module, widths: np.ndarray, place: str, **extra: Any) -> str:
    """Write a slim model to its file; returns the path or URI."""
    names = (group.name for group in work.problem.graph.groups)
    kept = dict(zip(names, widths.tolist(), strict=True))
    checkpoint.save(model, place, replace(work.base.info, widths=kept, extra=extra))
    return place


def _attempt(
    work: TrialContext, candidate: Candidate, recipe: Recipe, reason: str = ""
) -> Iterator[Report]:
    began = time.perf_counter()
    seed = seed_of(work.config, candidate.arch_hash)
    report: Report = {
        "reason": reason,
        "seed": seed,
        "host": platform.node(),
        "device": device_name(work.device),
        "started_at": datetime.now(UTC).isoformat(timespec="microseconds"),
    }
    asked = np.array(candidate.widths, dtype=np.int64)
    if (asked == work.problem.graph.widths).all():
        model, widths, epochs = work.model, asked, 0.0
        report |= dict.fromkeys(("score_pruned", "score_repaired", "score_val"), work.base.val)
        report["state"] = WHOLE
    else:
        slimmed = slim(work, candidate.method, asked, candidate.scalars, candidate.parent)
        model, widths, epochs = slimmed.model, slimmed.widths, recipe.epochs
        recalibrated = work.score(model)
        report |= {"score_pruned": slimmed.pruned, "prune_s": slimmed.cut_s + slimmed.repair_s}
        report |= {"score_repaired": recalibrated, "score_val": recalibrated, "state": REPAIRED}
    report |= {"widths": widths.tolist(), "epochs": 0.0, "finetune_s": 0.0, "curve": []}
    if epochs:
        yield report | {"wall_s": time.perf_counter() - began}
        order = work.task.shared_order(work.config.seed)
        before = work.before(model, report["score_val"])
        passes = tune(work, model, recipe, seed, data_seed=order)
        for i, (epoch, val) in enumerate(passes, start=1):
            report["finetune_s"] += epoch.seconds
            report |= {"epochs": epoch.epoch, "score_val": val, "state": TUNED}
            report["curve"] = [*report["curve"], val]
            if i < math.ceil(epochs):  # the last one reports below, with its status
                yield report | {"wall_s": time.perf_counter() - began}
        report["state"], report["score_val"] = before.better(model, report["score_val"])
    place = _weights(work, candidate.trial_id)
    report["checkpoint"] = save(work, model, widths, place, score_val=report["score_val"])
    yield report | {"status": "complete", "wall_s": time.perf_counter() - began}


def device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
