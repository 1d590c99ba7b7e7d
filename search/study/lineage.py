"""Trained parents: which network of the run a trial begins with, in place of the base model."""

from __future__ import annotations

import numpy as np

from pruning import methods
from search.pareto import CostAxis
from search.storage import Row
from search.study.candidate import Candidate

TUNED = "tuned"  # the state of a network that its training made better


class Lineage:
    """The trained networks of a run that others may begin with.

    A parent was cut by the same method, and by the same scalars where they select; each of its
    widths is the child's or larger, and its training made it better than the repair had: a network
    that was only repaired has nothing that the base model has not. The nearest is the one of least
    cost. Of small networks, half of the gain of twice the epochs (FINDINGS of this project,
    `scripts/bench/parents.py`).
    """

    def __init__(self, axis: CostAxis) -> None:
        self.axis = axis
        self.rows: list[Row] = []
        self.widths = np.zeros((0, 0), dtype=np.int64)  # [rows, groups]

    def add(self, row: Row) -> None:
        """A trial that ended, its weights kept."""
        trained = row.status == "complete" and row.state == TUNED and row.checkpoint
        if trained and methods.get(row.method).inherits:
            self.rows.append(row)
            self.widths = np.array([row.widths for row in self.rows], dtype=np.int64)

    def of(self, candidate: Candidate) -> str:
        """The trial id of a candidate's parent; "" for the base model."""
        if candidate.widths is None or not self.rows:
            return ""
        wide = (self.widths >= np.array(candidate.widths)).all(axis=1)
        fits = [self.rows[i] for i in np.flatnonzero(wide) if _alike(self.rows[i], candidate)]
        return min(fits, key=lambda row: (self.axis.of(row), row.number)).trial_id if fits else ""

    def has(self, name: str) -> bool:
        """Whether a trial can still be begun with."""
        return any(row.trial_id == name for row in self.rows)


def _alike(row: Row, candidate: Candidate) -> bool:
    """Whether the one's units are among the other's."""
    if row.method != candidate.method or row.widths == candidate.widths:
        return False
    select = methods.get(row.method).scalars_select
    return not select or dict(row.proposal.get("scalars", {})) == dict(candidate.scalars)
