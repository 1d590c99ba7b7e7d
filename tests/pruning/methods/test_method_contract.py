"""Every method that is registered keeps the contract, and so does one written in one file."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from pruning import methods
from pruning.graph.channel_graph import ChannelGraph
from pruning.methods import Batches, Method, Problem, State
from pruning.methods.allocation import spend
from tests.method_contract import check_method
from tests.pruning import sample_models


@pytest.mark.parametrize("method", methods.names())
def test_registered_methods(method: str) -> None:
    check_method(methods.get(method), sample_models.model("digits"), sample_models.SHAPES["digits"])


class Careless(Method):
    """Ignores the target, which the contract must notice."""

    name = "careless"

    def prepare(self, model: nn.Module, graph: ChannelGraph, batches: Batches) -> State:
        return {}

    def scores(self, state: State, problem: Problem, **scalars: float) -> np.ndarray:
        return np.arange(problem.graph.units, dtype=np.float64)

    def allocate(
        self, state: State, problem: Problem, macs: float | None = None, **scalars: float
    ) -> np.ndarray:
        return problem.lattice.low


class Careful(Careless):
    """The same with a greedy allocation."""

    def allocate(
        self, state: State, problem: Problem, macs: float | None = None, **scalars: float
    ) -> np.ndarray:
        lat = problem.lattice
        return spend(problem, lat.low, macs or np.inf, lambda _: np.ones(len(lat.low)))


def test_contract_notices_a_missed_target() -> None:
    with pytest.raises(AssertionError, match="of the target"):
        check_method(Careless(), sample_models.model("digits"), sample_models.SHAPES["digits"])
    check_method(Careful(), sample_models.model("digits"), sample_models.SHAPES["digits"])
