"""Trained parents: which network of the run a trial begins with, in place of the base model."""

from __future__ import annotations

import numpy as np

from pruning import methods
from search.pareto import CostAxis
from search.storage import TUNED, Row
from search.study.candidate import Proposal


class Lineage:
    """The trained networks of a run that others may begin with.

    A parent was cut by the same method, and by the same scalars where they select; each of its
    widths is the child's or larger, and its training made it better than the repair had: a network
    that was only repaired has nothing that the base model has not. The nearest is the one of least
    cost.
    """

    def __init__(self, axis: CostAxis) -> None:
        self.axis = axis
        self.rows: list[Row] = []
        self._widths = np.zeros((0, 0), dtype=np.int64)  # [rows, groups], of the first rows

    def add(self, row: Row) -> None:
        """A trial that ended, its weights kept."""
        trained = row.status == "complete" and row.state == TUNED and row.checkpoint
        if trained and methods.get(row.method).inherits:
            self.rows.append(row)

    def of(self, proposal: Proposal) -> str:
        """The trial id of a proposal's parent; "" for the base model."""
        if proposal.widths is None or not self.rows:
            return ""
        if new := [row.widths for row in self.rows[len(self._widths) :]]:
            self._widths = np.vstack([self._widths.reshape(-1, len(new[0])), new])
        wide = (self._widths >= np.array(proposal.widths)).all(axis=1)
        fits = [self.rows[i] for i in np.flatnonzero(wide) if _alike(self.rows[i], proposal)]
        return min(fits, key=lambda row: (self.axis.of(row), row.number)).trial_id if fits else ""

    def has(self, name: str) -> bool:
        """Whether a trial can still be begun with."""
        return any(row.trial_id == name for row in self.rows)


def _alike(row: Row, child: Proposal) -> bool:
    """Whether the one's units are among the other's."""
    if row.method != child.method or row.widths == child.widths:
        return False
    select = methods.get(row.method).scalars_select
    return not select or dict(row.proposal.get("scalars", {})) == dict(child.scalars)
