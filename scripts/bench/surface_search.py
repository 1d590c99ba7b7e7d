"""A search on the surface of ResNet-56: studies without files or Ray, and their judge."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from surface import EPOCHS, Surface

from pruning.graph.channel_graph import ChannelGraph
from pruning.graph.cost import Cost
from pruning.graph.tracing import trace
from pruning.graph.widths import fit, lattice, uniform
from pruning.models import registry
from search.pareto import front
from search.pareto.strata import Strata, even
from search.storage.ledger import Ledger
from search.storage.row import Outcome, Row
from search.study.candidate import Candidate, Seed, StudyOptions
from search.study.study import Study
from search.study.warm_start import LEVELS
from search.study.width_space import WidthSpace

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Variant:
    """How a study proposes. trials: of each run; sampler None: independent random widths.

    workers: trials that run at a time, any of them ending next.
    """

    sampler: str | None = "tpe"
    seeds: bool = True
    stratify: bool = True
    offsets: str = "auto"
    offset_range: float = 0.5
    trials: int = 100
    workers: int = 1


class Memory(Ledger):
    """A ledger without files."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._rows = list(rows)

    def write(self, row: Row, replace: bool = False) -> bool:
        self._rows.append(row)
        return True

    def rows(self, mend: bool = False) -> list[Row]:
        return list(self._rows)


class Bench:
    """ResNet-56 with its surface, and the judge of what a search has found."""

    def __init__(self) -> None:
        self.graph: ChannelGraph = trace(registry.resolve("resnet56"), (3, 32, 32))
        self.cost, self.lat = Cost(self.graph), lattice(self.graph, None, 0.1)
        self.strata = Strata(self.cost.macs(self.lat.low) / self.cost.base_macs, 1.0)
        self.truth = Surface(noise=False)
        self.reference = front.reference_point(self.cost.base_macs, 10)

    def study(self, variant: Variant, seed: int, concurrency: int = 1) -> Study:
        space = WidthSpace(
            self.graph,
            self.cost,
            self.lat,
            low=1e-6,
            offsets=variant.offsets,
            offset_range=variant.offset_range,
        )
        options = StudyOptions(
            sampler=variant.sampler or "random",
            seeds=self.seeds() if variant.seeds else (),
            seed=seed,
            strata=Strata(space.low, space.high) if variant.stratify else None,
            concurrency=concurrency,
        )
        return Study(space, Memory(), self.cost, self.lat, options)

    def seeds(self) -> list[Seed]:
        """The base and uniform widths, as in search.study.warm_start; no one-shot allocation."""
        least = self.cost.macs(self.lat.low) / self.cost.base_macs
        found = [self.graph.widths]
        for share in even(least, 0.9, LEVELS):
            target = share * self.cost.base_macs
            found.append(fit(self.cost, lambda t: uniform(self.graph, self.lat, t), target))
        return [Seed(f"seed {i}", "uniform", tuple(w.tolist())) for i, w in enumerate(found)]

    def volume(self, W: NDArray[np.int64], noisy: Array) -> float:
        """Hypervolume of the true accuracies of what is on the frontier by noisy ones."""
        if not len(W):
            return 0.0
        macs = self.cost.macs(W)
        chosen = front.front(np.column_stack([macs, noisy]))
        true = np.column_stack([macs[chosen], self.truth.end(W[chosen])])
        return front.hypervolume(true, self.reference)


def outcome_of(candidate: Candidate, curve: Array, epochs: int = EPOCHS) -> Outcome:
    """How a trial ended that has this learning curve."""
    return Outcome(
        status="complete",
        widths=candidate.widths,
        score_repaired=float(curve[0]),
        score_val=float(curve[epochs if epochs else -1]),
        epochs=float(epochs),
    )
