"""What a search has found, for a Python program: its frontier, points, trials and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from search.frontier import pictures, select
from search.pareto import TOP1, CostAxis, Metric
from search.storage import Ledger, Results, results
from search.storage import files as storage

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn


@dataclass(frozen=True)
class Point:
    """One network of a frontier; `point["score_val"]` gives any of its columns."""

    values: Mapping[str, Any]
    network: nn.Module | None = field(default=None, repr=False)
    trust: bool = field(default=False, repr=False)
    metric: Metric = TOP1

    def __getitem__(self, column: str) -> Any:
        return self.values[column]

    def __repr__(self) -> str:
        return f"Point({select.describe(self.values, self.metric)})"

    @property
    def rank(self) -> int:
        """Place on the frontier; 0 costs least."""
        return int(self.values["rank"])

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return int(self.values["macs"])

    @property
    def params(self) -> int:
        return int(self.values["params"])

    @property
    def score(self) -> float | None:
        """In the run's metric (a fraction where that is in %): the mean on test, else on val."""
        return results.score(self.values)

    @property
    def checkpoint(self) -> str:
        """Path or URI of its model.safetensors."""
        return str(self.values["checkpoint"])

    def load(self, model: nn.Module | None = None) -> nn.Module:
        """The slim network with its weights, on the CPU in eval mode, to deploy or to train on.

        model: the whole network, where a program had handed it in and this is a later session;
        it is left as it is. UserError where the file does not fit it.
        """
        from pruning.models import checkpoint

        whole = self.network if model is None else model
        return checkpoint.load(self.checkpoint, base=whole, trust=self.trust)


@dataclass(frozen=True)
class Result:
    """A run as it was when it was first looked at; `place` is its folder or URI."""

    place: str
    network: nn.Module | None = field(default=None, repr=False)
    trust: bool = field(default=False, repr=False)

    @cached_property
    def _run(self) -> Results:
        return results.read(self.place)

    @property
    def record(self) -> Mapping[str, Any]:
        """run.json: configuration, versions, the base model's score and MACs, status."""
        return self._run.record

    @property
    def metric(self) -> Metric:
        """What its scores are: name, unit, direction."""
        return self._run.metric

    @property
    def cost(self) -> CostAxis:
        """What it saves: name, unit, the base model's; of a latency also runtime and batch."""
        return self._run.axis

    @property
    def finished(self) -> bool:
        """Whether the frontier is final; else it is that of the trials so far."""
        return self._run.finished

    @cached_property
    def frontier(self) -> pa.Table:
        """The frontier by cost, a row for each point; `.to_pandas()` makes a DataFrame of it."""
        table = storage.open_uri(self.place) / "frontier.parquet"
        schema = None
        if results.exported_points(self.place, self.record) is not None:
            schema = results.read_table(table).schema
        return pa.Table.from_pylist([dict(point) for point in self._run.points], schema=schema)

    @property
    def trials(self) -> pa.Table:
        """Every trial that has ended, also those that failed, with their reasons."""
        return Ledger(self.place).to_table(self._run.rows, self.metric)

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """The networks of the frontier, by cost."""
        return tuple(map(self._point, self._run.points))

    def choose(
        self, at_most: str | None = None, at_least: str | None = None, knee: bool = False
    ) -> Point:
        """The one point asked for; UserError, naming the nearest, where none qualifies.

        at_most: the best within a cost ("60M MACs", "50%", "2M params", "2.5ms"); at_least: the
        cheapest that is at least so good ("93%"); knee: the one farthest above the frontier's ends.
        """
        options = select.ChooseOptions(at_most, at_least, knee)
        return self._point(select.choose(self._run.points, options, self.record))

    def plot(self) -> Figure:
        """Scores against costs as a matplotlib Figure; a notebook shows it."""
        return pictures.frontier(self._run.points, self._run.rows, self.record)

    def report(self) -> str:
        """Write report.html, one page for any browser; returns its path or URI."""
        from search.report import page

        return page.write(self.place)

    def _point(self, values: Mapping[str, Any]) -> Point:
        return Point(values, self.network, self.trust, self.metric)

    def __repr__(self) -> str:
        state = "" if self.finished else " so far"
        return f"Result({self.place!r}: {len(self._run.points)} points{state})"
