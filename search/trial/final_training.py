"""A final training: a frontier member trained further by one seed, and stored. No Ray in here.

It is the second kind of trial: the same worker runs it, on the same TrialContext. It begins with
what its trial has left (search.parents false: with the base model, cut anew). What it leaves is no
row but a file in RUN/finals, written once it is done; one that is there is not repeated.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from pruning.errors import UserError
from pruning.models import checkpoint, files
from pruning.training import Recipe
from search.config import Config
from search.storage import Row
from search.storage import files as storage
from search.trial.attempts import Report, guarded
from search.trial.trial import TrialContext, kept, save, seed_of, slim, tune

ALL = 2  # trainings that each member has; more where neighbours overlap
OWN = -1  # stands for "no training: the weights that the trial left"


@dataclass(frozen=True)
class Training:
    """One training of one member: its scores on val and test, and where its weights are.

    test: None where it has not been measured.
    """

    seed: int
    val: float
    test: float | None
    epochs: float
    seconds: float
    checkpoint: str


class Job(NamedTuple):
    """The `k`-th final training of a trial's network."""

    row: Row
    k: int

    @property
    def name(self) -> str:
        return f"{self.row.trial_id}-{'own' if self.k == OWN else self.k}"

    def to_config(self) -> dict[str, Any]:
        """Flat plain data for Ray Tune, as a candidate's."""
        return {"trial_id": self.name, "row": self.row.to_json(), "k": self.k}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Job:
        values = json.loads(config["row"])
        lists = {name: tuple(values[name]) for name in ("widths", "curve")}
        return cls(Row(**values | lists), config["k"])


def repeats(config: Config) -> list[int]:
    """The numbers of a member's final trainings."""
    return [*range(config.search.final_seeds)] or [OWN]


def epochs_of(config: Config, row: Row | None = None) -> float:
    """Epochs of a final training; those of a trial where members keep their trials' weights.

    row: whose training it is. A network without a trial, a one-shot, has its trial's epochs, too.
    """
    asked = config.search.final_epochs if config.search.final_seeds else None
    own = asked or config.finetune.epochs
    if row is None or row.checkpoint or not config.search.final_seeds or not config.search.parents:
        return own
    return own + config.finetune.epochs


def longest(config: Config, row: Row | None = None) -> float | None:
    """Seconds that a training may take: a trial's limit, in proportion for more epochs."""
    limit, trial, own = (
        config.search.trial_timeout_s,
        config.finetune.epochs,
        epochs_of(config, row),
    )
    if limit is None or (own and not trial):
        return None  # a trial without epochs says nothing of them
    return limit * max(1.0, own / trial) if trial else limit


def stored(config: Config, row: Row, k: int) -> Training | None:
    """A training that is done, its weights where the run lies now; else None."""
    found = read(_file(config, row, k))
    return found and replace(found, checkpoint=storage.inside(config.out, found.checkpoint))


def read(file: storage.Location) -> Training | None:
    """A stored training; None where it is not there or damaged: it is trained anew."""
    try:
        return Training(**json.loads(storage.read_bytes(file)))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def store(config: Config, row: Row, k: int, training: Training) -> None:
    """Write a training down; from now on it is done."""
    storage.write(_file(config, row, k), json.dumps(asdict(training)).encode())


def run(work: TrialContext, job: Job) -> Iterator[Report]:
    """Reports of one final training, the last with a `status`, see `guarded`."""
    epochs = epochs_of(work.config, job.row)
    recipe = replace(work.config.finetune.recipe(), epochs=epochs)
    return guarded(partial(_attempt, work, job), recipe, work.device, halves=work.task.halves)


def _attempt(work: TrialContext, job: Job, recipe: Recipe, reason: str = "") -> Iterator[Report]:
    # its worker may have died between the file and the report of it
    if stored(work.config, *job) is None:
        training = _own(work, job.row) if job.k == OWN else (yield from _train(work, job, recipe))
        store(work.config, *job, training)
    yield {"status": "complete", "reason": reason}


def _own(work: TrialContext, row: Row) -> Training:
    weights = storage.inside(work.config.out, row.checkpoint)
    model = checkpoint.load(weights, base=work.base.model(work.config)).to(work.device)
    test = work.score(model, "test")
    return Training(row.seed, work.score(model), test, row.epochs, 0.0, weights)


def _train(work: TrialContext, job: Job, recipe: Recipe) -> Generator[Report, None, Training]:
    """Reports each epoch; returns the Training."""
    config, began, (row, k) = work.config, time.perf_counter(), job
    seed = seed_of(config, row.arch_hash) + 1 + k
    widths = np.array(row.widths, dtype=np.int64)
    model = _begun(work, row)
    val = work.score(model)
    before = work.before(model, val)
    for epoch, tuned in tune(work, model, recipe, seed):
        val = tuned
        yield {"epochs": epoch.epoch, "score_val": val}
    _, val = before.better(model, val)
    test = work.score(model, "test")
    place = files.join(config.out, "finals", f"{row.trial_id}-{k}-{recipe.epochs:g}.safetensors")
    save(work, model, widths, place, score_val=val, score_test=test)
    return Training(seed, val, test, recipe.epochs, time.perf_counter() - began, place)


def _begun(work: TrialContext, row: Row) -> nn.Module:
    """What a final training begins with."""
    if work.config.search.parents and row.checkpoint:
        with suppress(UserError):  # removed by someone: the trial can be had again, untrained
            return kept(work, storage.inside(work.config.out, row.checkpoint))
    widths = np.array(row.widths, dtype=np.int64)
    return slim(work, row.method, widths, row.proposal.get("scalars", {})).model


def _file(config: Config, row: Row, k: int) -> storage.Location:
    name = "own" if k == OWN else f"{k}-{epochs_of(config, row):g}"
    return storage.open_uri(config.out) / "finals" / f"{row.trial_id}-{name}.json"
