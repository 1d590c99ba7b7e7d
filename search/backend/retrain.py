"""Trainings of given networks by several seeds: on Ray actors, each stored once it is done."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import ray

from pruning.errors import UserError
from pruning.models import checkpoint, files
from pruning.training import Recipe, evaluate
from search import interrupt
from search.backend import cluster
from search.config import Config
from search.storage import Row
from search.storage import files as storage
from search.trial import (
    SCORING_BATCH,
    BaseModel,
    Repaired,
    TrialContext,
    free,
    out_of_memory,
    save,
    seed_of,
    slim,
    tune,
)

SAY_EVERY = 20.0  # seconds
OWN = -1  # stands for "no training: the weights that the trial left"
TRIES = 3  # of a training whose worker or node died


@dataclass(frozen=True)
class Training:
    """One training of one member: top-1 on val and test as fractions, and where its weights are.

    test: None where it has not been measured.
    """

    seed: int
    val: float
    test: float | None
    epochs: float
    seconds: float
    checkpoint: str


def repeats(config: Config) -> list[int]:
    """The numbers of a member's final trainings."""
    return [*range(config.search.final_seeds)] or [OWN]


def epochs_of(config: Config) -> float:
    """Epochs of a final training; those of a trial where members keep their trials' weights."""
    asked = config.search.final_epochs if config.search.final_seeds else None
    return asked or config.finetune.epochs


def _place(config: Config, row: Row, k: int) -> storage.Location:
    name = "own" if k == OWN else f"{k}-{epochs_of(config):g}"
    return storage.open_uri(config.out) / "finals" / f"{row.trial_id}-{name}.json"


def stored(config: Config, row: Row, k: int) -> Training | None:
    """A training that is done, its weights where the run lies now; else None."""
    found = read(_place(config, row, k))
    return found and replace(found, checkpoint=storage.inside(config.out, found.checkpoint))


def read(file: storage.Location) -> Training | None:
    """A stored training; None where it is not there or damaged: it is trained anew."""
    try:
        return Training(**json.loads(storage.read_bytes(file)))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def store(config: Config, row: Row, k: int, training: Training) -> None:
    """Write a training down; from now on it is done."""
    storage.write_atomic(_place(config, row, k), json.dumps(asdict(training)).encode())


def train_all(
    config: Config,
    base: BaseModel,
    jobs: Sequence[tuple[Row, int]],
    share: cluster.TrialResources,
    say: Callable[[str], None],
) -> None:
    """Train on as many actors as fit; one that dies loses its own training only.

    What takes longer than search.trial_timeout_s allows is not tried again.
    """
    limit = longest(config)
    shared, count = ray.put(base), min(share.slots, len(jobs))
    make = ray.remote(Trainer).options(**share.options)
    idle: list[Any] = [make.remote(config, shared) for _ in range(count)]
    queue = list(reversed(jobs))
    tries: Counter[tuple[str, int]] = Counter()
    running: dict[Any, tuple[Any, tuple[Row, int]]] = {}
    starting: dict[Any, Any] = {}  # what tells that an actor is there -> its training
    since: dict[Any, float] = {}
    told = time.monotonic()
    while queue or running:
        while queue and idle:
            actor, job = idle.pop(), queue.pop()
            ready, training = actor.ready.remote(), actor.train.remote(*job)
            running[training], starting[ready] = (actor, job), training
        (done, *_), _ = ray.wait([*starting, *running])
        interrupt.check()
        if done in starting:
            since[starting.pop(done)] = time.monotonic()
            continue
        actor, (row, k) = running.pop(done)
        seconds = time.monotonic() - since.get(done, math.inf)
        try:
            ray.get(done)
            if queue:
                idle.append(actor)
            else:  # its share may be what another waits for, where a node was lost or is to come
                ray.kill(actor)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, UserError):
                raise cause from None  # a disk that is full, say: the next would meet it too
            tries[row.trial_id, k] += 1
            died = isinstance(error, ray.exceptions.RayActorError)
            late = died and limit is not None and seconds >= limit
            if died and not late and tries[row.trial_id, k] < TRIES:
                queue.append((row, k))
            else:
                why = f"not done after {limit:g} s" if late else _line(error)
                what = "its test" if k == OWN else f"final training {k}"
                say(f"{row.trial_id}: {what} failed ({why})")
            ray.kill(actor)
            if queue:
                idle.append(make.remote(config, shared))
        if time.monotonic() - told > SAY_EVERY:
            told = time.monotonic()
            say(f"{len(jobs) - len(queue) - len(running)} of {len(jobs)} final trainings done")


def longest(config: Config) -> float | None:
    """Seconds that a training may take: a trial's limit, in proportion for more epochs."""
    limit, epochs = config.search.trial_timeout_s, config.finetune.epochs
    if limit is None or (not epochs and epochs_of(config)):
        return None  # a trial without epochs says nothing of them
    return limit * max(1.0, epochs_of(config) / epochs) if epochs else limit


@contextmanager
def _limited(limit: float | None) -> Iterator[None]:
    """End this process where it takes longer; what hangs cannot be told to stop."""
    timer = None if limit is None else threading.Timer(limit, os._exit, (1,))
    if timer:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        if timer:
            timer.cancel()


class Trainer:
    """An actor that trains networks one after another."""

    def __init__(self, config: Config, base: BaseModel) -> None:
        self.work = TrialContext.open(config, base, cluster.worker_device(config))

    def ready(self) -> None:
        """Returns once data and base model are there."""

    def train(self, row: Row, k: int) -> Training:
        free(self.work.device)
        with _limited(longest(self.work.config)):
            training = _own(self.work, row) if k == OWN else _train(self.work, row, k)
            store(self.work.config, row, k, training)
        return training


def _own(work: TrialContext, row: Row) -> Training:
    weights = storage.inside(work.config.out, row.checkpoint)
    model = checkpoint.load(weights, base=work.base.model(work.config)).to(work.device)
    test = evaluate(model, work.test.batches(SCORING_BATCH))
    return Training(row.seed, work.score(model), test, row.epochs, 0.0, weights)


def _train(work: TrialContext, row: Row, k: int) -> Training:
    """One training; running out of memory is tried again with half the batch, as in a trial."""
    recipe = replace(work.config.finetune.recipe(), epochs=epochs_of(work.config))
    try:
        return _attempt(work, row, k, recipe)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
    free(work.device)  # not sooner: the error holds what the attempt has on the device
    return _attempt(work, row, k, replace(recipe, batch=max(1, recipe.batch // 2)))


def _attempt(work: TrialContext, row: Row, k: int, recipe: Recipe) -> Training:
    config, began, epochs = work.config, time.perf_counter(), recipe.epochs
    seed = seed_of(config, row.arch_hash) + 1 + k
    asked = np.array(row.widths, dtype=np.int64)
    slimmed = slim(work, row.method, asked, row.proposal.get("scalars", {}))
    val = work.score(slimmed.model)
    before = Repaired(slimmed.model, val)
    for _, tuned in tune(work, slimmed.model, recipe, seed):
        val = tuned
    _, val = before.better(slimmed.model, val)
    test = evaluate(slimmed.model, work.test.batches(SCORING_BATCH))
    place = files.join(config.out, "finals", f"{row.trial_id}-{k}-{epochs:g}.safetensors")
    save(work, slimmed.model, slimmed.widths, place, score_val=val, score_test=test)
    return Training(seed, val, test, epochs, time.perf_counter() - began, place)


def _line(error: BaseException) -> str:
    return next((line for line in reversed(str(error).strip().splitlines()) if line), "unknown")
