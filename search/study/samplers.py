"""Optuna's samplers by name, set up so that one proposal costs the controller milliseconds.

TPE's cost grows with parameters times history: a quarter of a second for 58 parameters and 1,000
trials. It is shown a window of the history, the best half and the latest half, and where parameters
are many it models them jointly, in one pass instead of one for each.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from pruning.errors import UserError
from pruning.graph import Lattice
from search.pareto import CostAxis
from search.storage import Row

logger = logging.getLogger(__name__)

NAMES = ("ehvi", "tpe", "nsga2", "nsga3", "gp", "random")
WINDOW = 128  # trials that TPE sees
JOINT = 12  # more parameters than this: multivariate TPE ...
JOINT_CANDIDATES = 12  # ... with half of Optuna's candidates: drawing them is most of its cost
POPULATION = 24
GP_LIMIT = 20
STARTUP = 10


def create(
    name: str,
    seed: int,
    distributions: Mapping[str, BaseDistribution],
    *,
    conditional: bool = False,
    concurrency: int = 1,
) -> BaseSampler:
    """A sampler by name; UserError where there is none.

    `conditional`: some parameters apply to some trials only. As many random trials come first as
    run at one time, at least ten.
    """
    startup = max(STARTUP, concurrency)
    fixed = None if conditional else dict(distributions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if name == "tpe":
            if len(distributions) <= JOINT:
                return TPESampler(n_startup_trials=startup, seed=seed)
            return _JointTPE(fixed, n_startup_trials=startup, seed=seed, group=conditional)
        if name == "nsga2":
            return _NSGAII(fixed, population_size=POPULATION, seed=seed)
        if name == "nsga3":
            return _NSGAIII(fixed, population_size=POPULATION, seed=seed)
        if name == "gp":
            return GPSampler(n_startup_trials=startup, seed=seed)
        if name == "random":
            return optuna.samplers.RandomSampler(seed=seed)
    raise UserError(f"unknown sampler {name!r}; choose one of {', '.join(NAMES)}")


def warn_if_slow(name: str, parameters: int) -> None:
    if name == "gp" and parameters > GP_LIMIT:
        logger.warning(
            "the gp sampler takes seconds a proposal with %d parameters; "
            "keep to %d: use offsets per stage, or the tpe sampler",
            parameters,
            GP_LIMIT,
        )


class History(optuna.storages.InMemoryStorage):
    """Optuna's storage in memory that can show a sampler a part of one study's finished trials."""

    def __init__(self) -> None:
        super().__init__()
        self._window: tuple[list[int], int] | None = None

    @contextmanager
    def only(self, numbers: list[int] | None, since: int) -> Iterator[None]:
        """Within: `numbers` (ascending) and all trials from number `since` on; None shows all."""
        self._window = None if numbers is None else (numbers, since)
        try:
            yield
        finally:
            self._window = None

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        if self._window is None or states == (TrialState.WAITING,):
            return super().get_all_trials(study_id, deepcopy, states)
        everything = super().get_all_trials(study_id, deepcopy=False)
        numbers, since = self._window
        shown = [everything[n] for n in numbers] + everything[since:]
        shown = [t for t in shown if states is None or t.state in states]
        return copy.deepcopy(shown) if deepcopy else shown


class _KnownSpace:
    """Spares a sampler the scan of the whole history for the parameters that all trials share."""

    def __init__(self, fixed: dict[str, BaseDistribution] | None, **options: Any) -> None:
        super().__init__(**options)
        self._fixed = fixed

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        if self._fixed is None:
            return super().infer_relative_search_space(study, trial)  # type: ignore[misc,no-any-return]
        return self._fixed


class _JointTPE(_KnownSpace, TPESampler):
    def __init__(self, fixed: dict[str, BaseDistribution] | None, **options: Any) -> None:
        super().__init__(fixed, multivariate=True, n_ei_candidates=JOINT_CANDIDATES, **options)


class _NSGAII(_KnownSpace, NSGAIISampler):
    pass


class _NSGAIII(_KnownSpace, NSGAIIISampler):
    pass


def mutants(
    lat: Lattice, parents: Sequence[Row], axis: CostAxis, rng: np.random.Generator
) -> Iterator[tuple[Row, NDArray[np.int64]]]:
    """Widths a few steps away from members of a frontier, with the member; without end.

    Lonely members are parents more often.
    """
    place = np.log([axis.of(row) for row in parents])
    gaps = np.diff(place, prepend=place[0]) + np.diff(place, append=place[-1])
    while True:
        first, second = rng.integers(len(parents), size=2)
        parent = parents[first if gaps[first] > gaps[second] else second]
        yield parent, neighbour(lat, parent.widths, rng)


def neighbour(lat: Lattice, widths: Sequence[int], rng: np.random.Generator) -> NDArray[np.int64]:
    """A width vector a few steps away: about four groups, each one or two steps up or down."""
    vector = np.array(widths, dtype=np.int64)
    chosen = rng.random(len(vector)) < min(0.5, 4 / len(vector))
    chosen[rng.integers(len(vector))] = True
    for _ in range(2):
        step = np.where(rng.random(len(vector)) < 0.5, lat.up(vector), lat.down(vector))
        vector = np.where(chosen, step, vector)
        chosen &= rng.random(len(vector)) < 0.5
    return vector


def seed_of(*keys: int) -> int:
    """A 32-bit seed from whole numbers: the same for the same keys, unrelated for others."""
    return int(np.random.SeedSequence(keys).generate_state(1)[0])
