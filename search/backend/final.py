"""The last stage: frontier members trained anew with several seeds, and the test split's only use.

The frontier of single trainings is optimistic, the best of many noisy values. Each member is
trained `final_seeds` times; the mean on val says whether it stays, the mean on test is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from search.backend import cluster
from search.backend import retrain as trainings
from search.backend.retrain import Training
from search.config import Config
from search.pareto import front
from search.storage import Ledger, Row
from search.storage import files as storage
from search.trial import Base


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
    anew = [row for row in members if not _is_whole(base, row)]
    jobs = [(row, k) for row in anew for k in trainings.repeats(config)]
    todo = [job for job in jobs if trainings.stored(config, *job) is None]
    if todo:
        say(f"frontier of {len(members)} members: {len(todo)} final trainings")
        trainings.train_all(config, base, todo, share, say)
    measured = []
    for row in members:
        if not (trained := _trainings(config, base, row)):
            say(f"{row.trial_id} keeps the weights of its trial, not tested: no final training")
        measured.append(Member(row, trained or (_trial(config, row),)))
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
    members = [rows[i] for i in front.front(front.points_of(rows))]
    return members + [row for row in rows if _is_whole(base, row) and row not in members]


def _front(members: Sequence[Member]) -> list[Member]:
    """Those that no other's mean dominates, by MACs."""
    points = [(member.row.macs, member.val_mean) for member in members]
    return [members[i] for i in front.front(points)]


def _trainings(config: Config, base: Base, row: Row) -> tuple[Training, ...]:
    """What is finished; the base model was scored before the search."""
    if _is_whole(base, row):
        weights = storage.inside(config.out, row.checkpoint)
        return (Training(row.seed, base.val, base.test, 0.0, 0.0, weights),)
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
    assert row.top1_val is not None
    weights = storage.inside(config.out, row.checkpoint)
    return Training(row.seed, row.top1_val, None, row.epochs, row.finetune_s, weights)


def _is_whole(base: Base, row: Row) -> bool:
    return row.widths == tuple(base.info.widths.values())
