"""What each torch operation does to channel labels: a rule for each kind of operation.

A rule is called with the record, the operation's result and its arguments. It labels the result
and returns True, or returns False where this call is none that it can follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pruning.graph.tracing.record import Record
from pruning.graph.tracing.rules import (
    blocks,
    layers,
    moves,
    norms,
    pointwise,
    products,
    reductions,
)

Rule = Callable[..., bool]

RULES: Mapping[str, Rule] = {
    **layers.RULES,
    **norms.RULES,
    **pointwise.RULES,
    **reductions.RULES,
    **moves.RULES,
    **blocks.RULES,
    **products.RULES,
}
OWN_PARAMETERS = frozenset({*layers.RULES, *norms.RULES, *products.RULES})
"""Operations whose rules label the parameters they read, by name."""


def understood(record: Record, name: str, out: Any, args: Any, kwargs: Any) -> bool:
    """Label the results of an operation that was run; whether there was a rule for the call."""
    rule = RULES.get(name)
    try:
        return rule is not None and rule(record, out, *args, **kwargs)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return False  # a call of a form not foreseen costs its own channels only
