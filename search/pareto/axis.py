"""What is saved: the frontier's axis beside the score, and how people are told of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pruning.errors import UserError

# by name: the column of rows and points, one word for it, its unit, how an axis is titled
_KINDS: Mapping[str, tuple[str, str, str, str]] = {
    "macs": ("macs", "MACs", "MACs", "MACs for one image"),
    "params": ("params", "parameters", "parameters", "parameters"),
    "latency": ("predicted_ms", "latency", "ms", "predicted latency"),
}
OBJECTIVES = tuple(_KINDS)


@dataclass(frozen=True)
class CostAxis:
    """One of the costs of a network, and what the base model has of it.

    name: one of OBJECTIVES. base: the base model's, in the unit; 0 where that is not known.
    runtime, batch: of a latency, what it is foretold for.
    """

    name: str = "macs"
    base: float = 0.0
    runtime: str = ""
    batch: int = 1

    def __post_init__(self) -> None:
        if self.name not in _KINDS:
            raise UserError(f"cost {self.name!r}: choose one of {', '.join(OBJECTIVES)}")

    @property
    def column(self) -> str:
        """Of trials.parquet and frontier.parquet, and the attribute of a row."""
        return _KINDS[self.name][0]

    @property
    def word(self) -> str:
        """ "MACs", "parameters", "latency": as in "half of the MACs"."""
        return _KINDS[self.name][1]

    @property
    def unit(self) -> str:
        """ "MACs", "parameters", "ms"."""
        return _KINDS[self.name][2]

    @property
    def timed(self) -> bool:
        """Whether it is a time, of which there are fractions."""
        return self.unit == "ms"

    @property
    def others(self) -> tuple[CostAxis, ...]:
        """What is counted of every network and shown beside it."""
        return tuple(CostAxis(name) for name in ("macs", "params") if name != self.name)

    @property
    def title(self) -> str:
        """What an axis counts, without a unit's prefix."""
        return _KINDS[self.name][3] + (f" of a batch of {self.batch}" if self.timed else "")

    @property
    def heading(self) -> str:
        """A column's: "MACs", "parameters", "predicted [ms]"."""
        return "predicted [ms]" if self.timed else self.word

    def of(self, network: Any) -> float:
        """Of a ledger row, or of a point as a mapping; NaN where it has none."""
        point = isinstance(network, Mapping)
        value = network.get(self.column) if point else getattr(network, self.column)
        return float("nan") if value is None else float(value)

    def share(self, network: Any) -> float:
        """Of a row or point, as a share of the base model's."""
        return self.of(network) / (self.base or 1.0)

    def number(self, value: float | None) -> str:
        """ "125.7M", "2.31": for a column whose heading has the unit."""
        if value is None or value != value:
            return "–"
        return f"{value:.3g}" if self.timed else human(value)

    def show(self, value: float | None) -> str:
        """ "125.7M MACs", "2.31 ms"."""
        return f"{self.number(value)} {self.unit}"

    def scaled(self, values: Iterable[float | None]) -> tuple[float, str]:
        """A divisor and the unit it gives, so that an axis reads 0 to some hundred."""
        if self.timed:
            return 1.0, "ms"
        largest = max((value for value in values if value), default=1.0)
        for scale, unit in ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands")):
            if largest >= scale:
                return scale, unit
        return 1.0, "count"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> CostAxis:
        """Of what `to_json` made; keys of a later version are left alone."""
        return cls(**{key: found[key] for key in cls.__dataclass_fields__ if key in found})


MACS = CostAxis()
"""The usual one, where the base model's MACs do not matter."""


def human(value: float) -> str:
    """Four significant digits with a suffix: 125747840 → "125.7M", 640 → "640"."""
    for suffix, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= scale:
            return f"{value / scale:.4g}{suffix}"
    return f"{value:.4g}"
