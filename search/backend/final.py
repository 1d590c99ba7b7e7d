"""The last stage: frontier members trained further by several seeds, and the test split's only use.

The frontier of single trainings is optimistic, the best of many noisy values. `final_points` of it
are trained further, up to `final_seeds` times; the mean on val says whether one stays, the mean on
test is reported.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from search.backend import cluster
from search.config import Config
from search.pareto import TOP1, CostAxis, Metric, Reference, front
from search.storage import Ledger, Row
from search.storage import files as storage
from search.study import finalists
from search.trial import BaseModel, Job, Training
from search.trial import final_training as trainings

APART = 2.0  # standard errors of a difference that tell two neighbours apart


@dataclass(frozen=True)
class Member:
    """A point of the frontier and its trainings, at least one."""

    row: Row
    trainings: tuple[Training, ...]
    metric: Metric = TOP1

    @property
    def best(self) -> Training:
        """The training whose weights are exported: best on val."""
        return max(self.trainings, key=lambda training: self.metric.gain(training.val))

    @property
    def val_mean(self) -> float:
        return float(np.mean([training.val for training in self.trainings]))


Measure = Callable[
    [Config, BaseModel, Sequence[Row], cluster.TrialResources, Callable[[str], None]], list[Member]
]


def measure(
    config: Config,
    base: BaseModel,
    rows: Sequence[Row],
    share: cluster.TrialResources,
    say: Callable[[str], None],
) -> list[Member]:
    """Members of the frontier of complete `rows`, measured; finished trainings are not repeated.

    The base model is measured with them, at no cost: what dominated it may have been lucky.
    """
    axis = base.axis(config.search)
    members = _finalists(config, base, rows)
    anew = [row for row in members if not _is_whole(base, row)]
    batches = _batches(config, members, anew, base.metric, axis, say)
    from search.backend import retrain  # and Ray Tune, which takes a second to import

    retrain.train_all(config, base, batches, share, say)
    measured = []
    for row in members:
        if not (trained := _trainings(config, base, row)):
            say(f"{row.trial_id} keeps the weights of its trial, not tested: no final training")
        measured.append(Member(row, trained or (_trial(config, row),), base.metric))
    stays = _front(measured, axis)
    for member in measured:
        if member not in stays:
            say(f"{member.row.trial_id} leaves the frontier: another dominates its mean")
    return stays


def so_far(config: Config, base: BaseModel, rows: Sequence[Row]) -> list[Member]:
    """Members of the frontier of complete `rows` without any training, for a run that is stopped.

    Final trainings that are finished already are used; the others' score on test is not known.
    """
    axis = base.axis(config.search)
    return _front(
        [
            Member(row, _trainings(config, base, row) or (_trial(config, row),), base.metric)
            for row in _members(base, rows, axis)
        ],
        axis,
    )


def _batches(
    config: Config,
    members: Sequence[Row],
    anew: Sequence[Row],
    metric: Metric,
    axis: CostAxis,
    say: Callable[[str], None],
) -> Iterator[list[Job]]:
    """What is not done yet: trainings that each of `anew` has, then those where seeds decide."""

    def todo(rows: Sequence[Row], seeds: Sequence[int], what: str) -> list[Job]:
        jobs = [Job(row, k) for row in rows for k in seeds]
        jobs = [job for job in jobs if trainings.stored(config, *job) is None]
        if jobs:
            say(f"{what}: {len(jobs)} final trainings")
        return jobs

    repeats = trainings.repeats(config)
    first = [k for k in repeats if k < trainings.ALL]
    yield todo(anew, first, f"{len(members)} points of the frontier")
    for k in repeats[len(first) :]:
        close = _overlapping(config, anew, metric, axis)
        yield todo(close, [k], f"seed {k + 1} where neighbours overlap")


def _finalists(config: Config, base: BaseModel, rows: Sequence[Row]) -> list[Row]:
    """Whom to train anew, and the base model."""
    problem = base.problem(config.search)
    reference = Reference.of(base.axis(config.search), base.metric, base.val)
    slim = [row for row in rows if not _is_whole(base, row)]
    chosen = finalists(slim, config.search.final_points, problem.graph, problem.cost, reference)
    return chosen + [row for row in rows if _is_whole(base, row)]


def _overlapping(config: Config, rows: Sequence[Row], metric: Metric, axis: CostAxis) -> list[Row]:
    """Those whose mean on val is, for its noise, not apart from that of a neighbour by cost."""
    found = {row.trial_id: [t.val for t in _finished(config, row)] for row in rows}
    several = [np.var(vals, ddof=1) for vals in found.values() if len(vals) > 1]
    rows = sorted((row for row in rows if found[row.trial_id]), key=axis.of)
    if not several:
        return rows
    # the members' trainings are alike: a pooled variance is surer than one of two values
    errors = {name: np.sqrt(np.mean(several) / max(len(vals), 1)) for name, vals in found.items()}
    close = set()
    for a, b in itertools.pairwise(row.trial_id for row in rows):
        apart = metric.gain(float(np.mean(found[b]))) - metric.gain(float(np.mean(found[a])))
        if apart < APART * np.hypot(errors[a], errors[b]):
            close |= {a, b}
    return [row for row in rows if row.trial_id in close]


def _members(base: BaseModel, rows: Sequence[Row], axis: CostAxis) -> list[Row]:
    """The frontier of single trainings, and the base model, which a lucky one may dominate."""
    members = [rows[i] for i in front.front(front.points_of(rows, base.metric, axis))]
    return members + [row for row in rows if _is_whole(base, row) and row not in members]


def _front(members: Sequence[Member], axis: CostAxis) -> list[Member]:
    """Those that no other's mean dominates, by cost."""
    points = [(axis.of(member.row), member.metric.gain(member.val_mean)) for member in members]
    return [members[i] for i in front.front(points)]


def _trainings(config: Config, base: BaseModel, row: Row) -> tuple[Training, ...]:
    """What is finished; the base model was scored before the search."""
    if _is_whole(base, row):
        weights = storage.inside(config.out, row.checkpoint)
        return (Training(row.seed, base.val, base.test, 0.0, 0.0, weights),)
    return _finished(config, row)


def _finished(config: Config, row: Row) -> tuple[Training, ...]:
    found = [trainings.stored(config, row, k) for k in trainings.repeats(config)]
    return tuple(training for training in found if training is not None)


def seconds(config: Config) -> float:
    """Seconds of all final trainings of the search, of members that left the frontier too."""
    names = {row.trial_id for row in Ledger(config.out).rows()}
    files = storage.list_files(storage.open_uri(config.out) / "finals", ".json")
    # the others are one-shots'
    own = [file for file in files if any(file.name.startswith(name) for name in names)]
    return sum(training.seconds for training in map(trainings.read, own) if training is not None)


def _trial(config: Config, row: Row) -> Training:
    """The trial's own training, for want of a final one."""
    assert row.score_val is not None
    weights = storage.inside(config.out, row.checkpoint)
    return Training(row.seed, row.score_val, None, row.epochs, row.finetune_s, weights)


def _is_whole(base: BaseModel, row: Row) -> bool:
    return row.widths == tuple(base.info.widths.values())
