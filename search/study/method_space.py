"""Proposals by the methods' own scalars, and the mixture of both kinds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution

from pruning.errors import UserError
from pruning.graph import Cost, Lattice
from search.study.candidate import Limits, Proposal
from search.study.limits import raised, reach, within
from search.study.width_space import (
    KIND,
    METHOD,
    RATIO,
    Distributions,
    Params,
    Widths,
    WidthSpace,
    choice,
)

Allocate: TypeAlias = Callable[[str, float | None, Mapping[str, float]], Widths]


class Scalar(Protocol):
    """A searchable number of a method: bounds, scale, default."""

    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def log(self) -> bool: ...
    @property
    def default(self) -> float: ...


class MethodSpace:
    """Methods' own scalars and the share of the cost at which each allocates the widths itself.

    `allocate(method, budget, scalars)` gives the widths where the driver has its statistics;
    without it the trial resolves them, and duplicates show only in the scalars.
    """

    kind = "threshold"

    def __init__(
        self,
        cost: Cost,
        lat: Lattice,
        methods: Mapping[str, Mapping[str, Scalar]],
        *,
        low: float = 0.05,
        high: float = 1.0,
        allocate: Allocate | None = None,
        free: Collection[str] = (),
        selecting: Collection[str] = (),
        limits: Limits | None = None,
    ) -> None:
        """`free`: methods whose scalars alone decide, without a budget (then it is None).

        `selecting`: those whose selection reads the scalars too. With the others, equal widths are
        the same network whatever the scalars, and a proposal carries none.
        """
        if not methods:
            raise UserError("a threshold proposal needs a method; name one with search.method")
        self.cost, self.methods, self.allocate = cost, dict(methods), allocate
        self.free = frozenset(free) if allocate is not None else frozenset()
        self.selecting = frozenset(selecting if allocate is not None else methods)
        self.limits, self.lat = limits or Limits(), lat
        self.low, self.high = reach(cost, lat, low, high, self.limits)

    def distributions(self, params: Mapping[str, Any] | None = None) -> Distributions:
        found = choice(METHOD, tuple(self.methods))
        if params is None:
            chosen = list(self.methods)
        elif len(self.methods) == 1 or METHOD in params:
            chosen = [params.get(METHOD, next(iter(self.methods)))]
        else:
            chosen = []
        for method in chosen:
            if method not in self.free:
                found[RATIO] = FloatDistribution(self.low, self.high, log=True)
            for name, scalar in self.methods[method].items():
                found[f"{method}.{name}"] = _number(scalar)
        return found

    def resolve(self, params: Mapping[str, Any]) -> Proposal:
        method = params.get(METHOD, next(iter(self.methods)))
        target = None if method in self.free else self.cost.budget(params[RATIO])
        scalars = {name: params[f"{method}.{name}"] for name in self.methods[method]}
        widths = None
        if self.allocate is not None:
            widths = tuple(self._allocate(self.allocate, method, target, scalars).tolist())
        asked = self.cost.of(np.array(widths)) if target is None else target
        return Proposal(
            self.kind, method, asked, widths, scalars if method in self.selecting else {}
        )

    def _allocate(
        self, allocate: Allocate, method: str, target: float | None, scalars: Mapping[str, float]
    ) -> Widths:
        if target is None:  # the scalars alone decide
            return allocate(method, None, scalars)
        least = self.low * self.cost.base
        found = within(
            self.limits, self.cost, lambda b: allocate(method, b, scalars), target, least
        )
        return raised(self.limits, self.cost, self.lat, found)

    def encode(self, widths: Sequence[int] | Widths, method: str | None = None) -> Params:
        """The method at its defaults and the widths' cost; widths themselves have no parameters."""
        chosen = method if method in self.methods else next(iter(self.methods))
        ratio = self.cost.of(np.asarray(widths, dtype=np.int64)) / self.cost.base
        params: Params = {}
        if chosen not in self.free:
            params[RATIO] = float(np.clip(ratio, self.low, self.high))
        if len(self.methods) > 1:
            params[METHOD] = chosen
        return params | {f"{chosen}.{n}": s.default for n, s in self.methods[chosen].items()}


class MixedSpace:
    """Each trial one of the two: `kind` is chosen first, then its own parameters."""

    def __init__(self, widths: WidthSpace, threshold: MethodSpace) -> None:
        self.spaces: dict[str, WidthSpace | MethodSpace] = {
            widths.kind: widths,
            threshold.kind: threshold,
        }
        # one distribution per name in a study: the choice of method must offer the same names
        names = dict.fromkeys((*widths.methods, *threshold.methods))
        self._renamed = {kind: f"{kind}.{METHOD}" for kind in self.spaces} if len(names) > 1 else {}
        if (widths.low, widths.high) != (threshold.low, threshold.high):
            raise ValueError("mixed proposals need one range of costs")

    def distributions(self, params: Mapping[str, Any] | None = None) -> Distributions:
        found: Distributions = {KIND: CategoricalDistribution(tuple(self.spaces))}
        if params is None:
            for kind in self.spaces:
                found |= self._outer(kind, self.spaces[kind].distributions())
        elif KIND in params:
            kind = params[KIND]
            found |= self._outer(kind, self.spaces[kind].distributions(self._inner(kind, params)))
        return found

    def resolve(self, params: Mapping[str, Any]) -> Proposal:
        kind = params[KIND]
        return self.spaces[kind].resolve(self._inner(kind, params))

    def encode(self, widths: Sequence[int] | Widths, method: str | None = None) -> Params:
        kind = WidthSpace.kind
        return {KIND: kind} | self._outer(kind, self.spaces[kind].encode(widths, method))

    def _outer(self, kind: str, values: dict[str, Any]) -> dict[str, Any]:
        renamed = self._renamed.get(kind, METHOD)
        return {renamed if name == METHOD else name: value for name, value in values.items()}

    def _inner(self, kind: str, params: Mapping[str, Any]) -> Params:
        renamed = self._renamed.get(kind, METHOD)
        return {METHOD if name == renamed else name: value for name, value in params.items()}


def _number(scalar: Scalar) -> FloatDistribution:
    return FloatDistribution(scalar.low, scalar.high, log=scalar.log)
