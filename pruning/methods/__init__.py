"""The pruning methods by name; a new one is a file here and a line below."""

from __future__ import annotations

import difflib

from pruning.errors import UserError
from pruning.methods.balanced import Balanced
from pruning.methods.base import Batches, Method, Problem, Scalar, State
from pruning.methods.baselines import GlobalL2, Uniform
from pruning.methods.cap import CaP
from pruning.methods.cpmc import CPMC
from pruning.methods.gain_curve import GainCurve
from pruning.methods.peel import Peel
from pruning.methods.prunenet import PruneNet

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (Uniform, GlobalL2, Peel, Balanced, PruneNet, CaP, CPMC, GainCurve)
}


def names() -> list[str]:
    return list(METHODS)


def get(name: str) -> Method:
    """A method by name; UserError names the closest ones."""
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=3) or names()
        raise UserError(f"no method {name!r}; did you mean {', '.join(close)}?")
    return METHODS[name]()


__all__ = ["METHODS", "Batches", "Method", "Problem", "Scalar", "State", "get", "names"]
