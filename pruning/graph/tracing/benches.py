"""The cheapest inputs that a network runs on: small images before whole ones, doubles in doubt."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pruning.graph.channel_graph import Keep
from pruning.graph.tracing.grouping import Grouping
from pruning.graph.tracing.inputs import SMALL_SIDE, Inputs
from pruning.graph.tracing.record import Place, Record
from pruning.graph.tracing.verification import Bench, Fault, UnsuitableError, lively


class Benches:
    """The cheapest bench that the network runs on: small images before whole ones."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self.model, self.inputs = model, inputs
        own = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        half = own not in (torch.float32, torch.float64)
        small = len(inputs.shape) == 3 and min(inputs.shape[1:]) > SMALL_SIDE and not inputs.given
        sides = [SMALL_SIDE, None] if small else [None]
        kinds = [torch.float32, own] if half else [own]
        self.choices = [(kind, side) for kind in kinds for side in sides]
        self.whole: dict[torch.dtype, tuple[nn.Module, dict[str, Tensor]]] = {}
        self.benches: dict[tuple[torch.dtype, int | None], Bench] = {}

    def bench(self, kind: torch.dtype, side: int | None) -> Bench:
        if (kind, side) not in self.benches:
            if kind not in self.whole:
                self.whole[kind] = lively(self.model, kind)
            noise = self.inputs.random(kind, side)
            self.benches[kind, side] = Bench(*self.whole[kind], noise, kind)
        return self.benches[kind, side]

    def now(self) -> Bench:
        """The one that is used: the network runs on it."""
        return self.bench(*self.choices[0])

    def fault(self, grouping: Grouping, record: Record, keep: Keep) -> Fault | None:
        while True:
            kind, side = self.choices[0]
            try:
                found = self.bench(kind, side).fault(grouping.graph, keep, _norms(grouping, record))
            except UnsuitableError:
                if len(self.choices) == 1:
                    raise
                self.choices.pop(0)
                continue
            if found is None or found.error > 0.05 or kind != torch.float32:
                return found
            return found if self._wrong_in_double(grouping, record, keep, side) else None

    def _wrong_in_double(
        self, grouping: Grouping, record: Record, keep: Keep, side: int | None
    ) -> bool:
        """Whether a small difference is one in double precision, too; True where it has none."""
        bench = self.bench(torch.float64, side)
        try:
            return bench.fault(grouping.graph, keep, _norms(grouping, record)) is not None
        except UnsuitableError:
            return True


def _norms(grouping: Grouping, record: Record) -> dict[Place, tuple[int, np.ndarray]]:
    return {
        place: (dim, grouping.unit_of[labels.numpy()])
        for place, (dim, labels) in record.mixing.items()
    }
