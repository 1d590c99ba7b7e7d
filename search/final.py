"""The last stage: frontier members trained anew with several seeds, and the test split's only use.

The frontier of single trainings is optimistic, the best of many noisy values. Each member is
trained `final_seeds` times; the mean on val says whether it stays, the mean on test is reported.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import ray

from pruning import checkpoint, uri
from pruning.errors import UserError
from pruning.finetune import Recipe, evaluate, finetune
from search import cluster, pareto, storage
from search.base import SCORING_BATCH, Base
from search.ledger import Ledger, Row
from search.memory import free
from search.options import Config
from search.trial import Workshop, out_of_memory, save, seed_of, slim

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


@dataclass(frozen=True)
class Member:
    """A point of the frontier and its trainings, at least one."""

    row: Row
    trainings: tuple[Training, ...]

    @property
    def best(self) -> Training:
        """The training whose weights are exported: best on val."""
        return max(self.trainings, key=lambda training: training.val)

    @property
    def val_mean(self) -> float:
        return float(np.mean([training.val for training in self.trainings]))


Measure = Callable[
    [Config, Base, Sequence[Row], cluster.Share, Callable[[str], None]], list[Member]
]


def measure(
    config: Config,
    base: Base,
    rows: Sequence[Row],
    share: cluster.Share,
    say: Callable[[str], None],
) -> list[Member]:
    """Members of the frontier of complete `rows`, measured; finished trainings are not repeated.

    The base model is measured with them, at no cost: what dominated it may have been lucky.
    """
    members = _members(base, rows)
    jobs = [(row, k) for row in members if not _is_whole(base, row) for k in _repeats(config)]
    todo = [job for job in jobs if stored(config, *job) is None]
    if todo:
        say(f"frontier of {len(members)} members: {len(todo)} final trainings")
        train_all(config, base, todo, share, say)
    measured = []
    for row in members:
        if not (trainings := _trainings(config, base, row)):
            say(f"{row.trial_id} keeps the weights of its trial, not tested: no final training")
        measured.append(Member(row, trainings or (_trial(config, row),)))
    stays = _front(measured)
    for member in measured:
        if member not in stays:
            say(f"{member.row.trial_id} leaves the frontier: another dominates its mean")
    return stays


def so_far(config: Config, base: Base, rows: Sequence[Row]) -> list[Member]:
    """Members of the frontier of complete `rows` without any training, for a run that is stopped.

    Final trainings that are finished already are used; the others' test accuracy is not known.
    """
    return _front(
        [
            Member(row, _trainings(config, base, row) or (_trial(config, row),))
            for row in _members(base, rows)
        ]
    )


def _members(base: Base, rows: Sequence[Row]) -> list[Row]:
    """The frontier of single trainings, and the base model, which a lucky one may dominate."""
    members = [rows[i] for i in pareto.front(pareto.points_of(rows))]
    return members + [row for row in rows if _is_whole(base, row) and row not in members]


def _front(members: Sequence[Member]) -> list[Member]:
    """Those that no other's mean dominates, by MACs."""
    points = [(member.row.macs, member.val_mean) for member in members]
    return [members[i] for i in pareto.front(points)]


def _trainings(config: Config, base: Base, row: Row) -> tuple[Training, ...]:
    """What is finished; the base model was scored before the search."""
    if _is_whole(base, row):
        weights = storage.inside(config.out, row.checkpoint)
        return (Training(row.seed, base.val, base.test, 0.0, 0.0, weights),)
    found = [stored(config, row, k) for k in _repeats(config)]
    return tuple(training for training in found if training is not None)


def seconds(config: Config) -> float:
    """Seconds of all final trainings of the search, of members that left the frontier too."""
    names = {row.trial_id for row in Ledger(config.out).rows()}
    files = storage.list_files(storage.open_uri(config.out) / "finals", ".json")
    # the others are one-shots'
    own = [file for file in files if any(file.name.startswith(name) for name in names)]
    return sum(training.seconds for training in map(_read, own) if training is not None)


def _trial(config: Config, row: Row) -> Training:
    """The trial's own training, for want of a final one."""
    assert row.top1_val is not None
    weights = storage.inside(config.out, row.checkpoint)
    return Training(row.seed, row.top1_val, None, row.epochs, row.finetune_s, weights)


def _repeats(config: Config) -> list[int]:
    return [*range(config.search.final_seeds)] or [OWN]


def _is_whole(base: Base, row: Row) -> bool:
    return row.widths == tuple(base.info.widths.values())


def epochs_of(config: Config) -> float:
    """Epochs of a final training; those of a trial where members keep their trials' weights."""
    asked = config.search.final_epochs if config.search.final_seeds else None
    return asked or config.finetune.epochs


def _place(config: Config, row: Row, k: int) -> storage.Location:
    name = "own" if k == OWN else f"{k}-{epochs_of(config):g}"
    return storage.open_uri(config.out) / "finals" / f"{row.trial_id}-{name}.json"


def stored(config: Config, row: Row, k: int) -> Training | None:
    found = _read(_place(config, row, k))
    return found and replace(found, checkpoint=storage.inside(config.out, found.checkpoint))


def _read(file: storage.Location) -> Training | None:
    """None where it is not there or damaged: it is trained anew."""
    try:
        return Training(**json.loads(storage.read_bytes(file)))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _store(config: Config, row: Row, k: int, training: Training) -> None:
    storage.write_atomic(_place(config, row, k), json.dumps(asdict(training)).encode())


def train_all(
    config: Config,
    base: Base,
    jobs: Sequence[tuple[Row, int]],
    share: cluster.Share,
    say: Callable[[str], None],
) -> None:
    """Train on as many actors as fit; one that dies loses its own training only."""
    shared, count = ray.put(base), min(share.slots, len(jobs))
    make = ray.remote(_Finisher).options(**share.options)
    idle: list[Any] = [make.remote(config, shared) for _ in range(count)]
    queue = list(reversed(jobs))
    tries: Counter[tuple[str, int]] = Counter()
    running: dict[Any, tuple[Any, tuple[Row, int]]] = {}
    told = time.monotonic()
    while queue or running:
        while queue and idle:
            actor, job = idle.pop(), queue.pop()
            running[actor.train.remote(*job)] = actor, job
        done, _ = ray.wait(list(running))
        actor, (row, k) = running.pop(done[0])
        try:
            ray.get(done[0])
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
            if died and tries[row.trial_id, k] < TRIES:
                queue.append((row, k))
            else:
                say(f"{row.trial_id}: final training {k} failed ({_line(error)})")
            ray.kill(actor)
            if queue:
                idle.append(make.remote(config, shared))
        if time.monotonic() - told > SAY_EVERY:
            told = time.monotonic()
            say(f"{len(jobs) - len(queue) - len(running)} of {len(jobs)} final trainings done")


class _Finisher:
    """An actor that trains members one after another."""

    def __init__(self, config: Config, base: Base) -> None:
        self.work = Workshop.open(config, base, cluster.worker_device(config))

    def train(self, row: Row, k: int) -> Training:
        training = _own(self.work, row) if k == OWN else _train(self.work, row, k)
        _store(self.work.config, row, k, training)
        return training


def _own(work: Workshop, row: Row) -> Training:
    weights = storage.inside(work.config.out, row.checkpoint)
    model = checkpoint.load(weights, trust=work.config.model.trust_factory).to(work.device)
    test = evaluate(model, work.test.batches(SCORING_BATCH))
    return Training(row.seed, work.score(model), test, row.epochs, 0.0, weights)


def _train(work: Workshop, row: Row, k: int) -> Training:
    """One training; running out of memory is tried again with half the batch, as in a trial."""
    recipe = replace(work.config.finetune.recipe(), epochs=epochs_of(work.config))
    try:
        return _attempt(work, row, k, recipe)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
    free(work.device)  # not sooner: the error holds what the attempt has on the device
    return _attempt(work, row, k, replace(recipe, batch=max(1, recipe.batch // 2)))


def _attempt(work: Workshop, row: Row, k: int, recipe: Recipe) -> Training:
    config, began, epochs = work.config, time.perf_counter(), recipe.epochs
    seed = seed_of(config, row.arch_hash) + 1 + k
    asked = np.array(row.widths, dtype=np.int64)
    slimmed = slim(work, row.method, asked, row.proposal.get("scalars", {}))
    for _ in finetune(slimmed.model, work.train, recipe, seed=seed, teacher=work.model):
        pass
    val = work.score(slimmed.model)
    test = evaluate(slimmed.model, work.test.batches(SCORING_BATCH))
    place = uri.join(config.out, "finals", f"{row.trial_id}-{k}-{epochs:g}.safetensors")
    save(work, slimmed.model, slimmed.widths, place, top1_val=val, top1_test=test)
    return Training(seed, val, test, epochs, time.perf_counter() - began, place)


def _line(error: BaseException) -> str:
    return next((line for line in reversed(str(error).strip().splitlines()) if line), "unknown")
