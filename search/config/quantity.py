"""Quantities as users write them: a share of the base model ("60%"), or an amount ("60M")."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from pruning.errors import UserError
from search.pareto import human as human

_SUFFIX = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
_FORM = re.compile(r"([0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?\s*(%|ms|[kmgbt])?", re.I)


MEANT_AS_SHARE = 100.0  # a plain number up to this is a share of the base without its sign


@dataclass(frozen=True)
class Quantity:
    """An amount, or a share of the base model's amount."""

    value: float
    relative: bool

    def of(self, base: float) -> float:
        """The amount, given the base model's: "60%" of 125.7e6 is 75.42e6; "60M" is 60e6."""
        return self.value * base if self.relative else self.value


def parse(text: str | float, name: str) -> Quantity:
    """Read "60%" or 0.6, "60M", "1.2G", "1e8" or a plain number; times in ms ("2.5", "2.5ms").

    `name` is the option it was given to, for the message. Raises UserError.
    """
    latency = name.endswith("_ms")
    match = _FORM.fullmatch(str(text).strip())
    if isinstance(text, bool) or match is None:
        raise _unreadable(text, name, latency)
    suffix = (match[3] or "").lower()
    value = float(match[1] + (match[2] or ""))
    if suffix == "%":
        if not 0 < value <= 100:
            raise UserError(f"{name} {text}: must be above 0% and up to 100% of the base model")
        return Quantity(value / 100, True)
    if latency != (suffix == "ms") and suffix:
        raise _unreadable(text, name, latency)
    value *= 1.0 if latency else _SUFFIX[suffix]
    if not math.isfinite(value) or value <= 0:
        raise _unreadable(text, name, latency)
    if not latency and not suffix and value <= 1:
        return Quantity(value, True)
    if not latency and not suffix and value <= MEANT_AS_SHARE:
        raise UserError(f"{name} {text}: no network is so small; did you mean {value:g}%?")
    return Quantity(value, False)


def _unreadable(text: object, name: str, latency: bool) -> UserError:
    forms = '"2.5" (ms)' if latency else '"60M", "1.2G" or a plain number'
    return UserError(
        f"{name} {str(text)!r} is not a quantity; write {forms}, "
        'or a share of the base model such as "60%"'
    )
