"""What a score is: the metric's name, unit and direction, and how people are told of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pruning.errors import UserError

DIRECTIONS = ("max", "min")
PER_CENT = "%"


@dataclass(frozen=True)
class Metric:
    """How good a network is, and in which unit that is told.

    name: as in "top-1", "mIoU", "PSNR", "RMSE". unit: "%" of values that are fractions in data
    and per cent on screen; any other ("dB", "m") is that of the values; "" is none. direction:
    "max" where larger is better, else "min". chance: what a network scores that knows nothing;
    None where nobody knows. best: what a perfect one scores; None where there is no end, as of dB.
    digits: after the point, on screen.
    """

    name: str = "top-1"
    unit: str = PER_CENT
    direction: Literal["max", "min"] = "max"
    chance: float | None = None
    best: float | None = None
    digits: int = 2

    def __post_init__(self) -> None:
        if not self.name or self.direction not in DIRECTIONS:
            raise UserError(
                f"metric {self.name!r} with direction {self.direction!r}: it needs a name, and the "
                "direction max (larger is better) or min"
            )
        for key in ("chance", "best"):
            value = getattr(self, key)
            if value is not None and not math.isfinite(value):
                raise UserError(f"metric {self.name}: {key} is {value}; give a number, or None")
        if self.best is None and (self.fraction or self.direction == "min"):
            object.__setattr__(self, "best", 1.0 if self.fraction and self.rises else 0.0)

    @property
    def rises(self) -> bool:
        """Whether larger is better."""
        return self.direction == "max"

    @property
    def fraction(self) -> bool:
        """Whether values are fractions, shown as per cent."""
        return self.unit == PER_CENT

    @property
    def scale(self) -> float:
        """What a value is multiplied by for the screen."""
        return 100.0 if self.fraction else 1.0

    @property
    def bracket(self) -> str:
        """ "[%]", "[dB]"; "" without a unit: what stands behind a column's name."""
        return f"[{self.unit}]" if self.unit else ""

    @property
    def axis(self) -> str:
        """ "mIoU [%]": an axis or a column."""
        return f"{self.name} {self.bracket}".rstrip()

    def column(self, split: str) -> str:
        """ "val [%]": the column of a table whose heading says the metric."""
        return f"{split} {self.bracket}".rstrip()

    def gain(self, value: float) -> float:
        """The value turned so that larger is better; everything that compares scores uses this."""
        return value if self.rises else -value

    def better(self, a: float, b: float) -> bool:
        """Whether a is as good as b, or better."""
        return self.gain(a) >= self.gain(b)

    def number(self, value: float | None) -> str:
        """ "93.21" of 0.9321: for a column whose heading has the unit."""
        return "–" if value is None else f"{self.scale * value:.{self.digits}f}"

    def show(self, value: float | None) -> str:
        """ "93.21%", "28.31 dB"."""
        unit = self.unit if self.fraction or not self.unit else f" {self.unit}"
        return "–" if value is None else f"{self.number(value)}{unit}"

    def spread(self, value: float | None) -> str:
        """ " ± 0.12" of a standard deviation; "" where there is none."""
        return "" if value is None else f" ± {self.scale * value:.{self.digits}f}"

    def change(self, value: float) -> str:
        """ "+0.53 points", "-0.30 dB": a difference of two values."""
        unit = "points" if self.fraction else self.unit
        return f"{self.scale * value:+.{self.digits}f} {unit}".rstrip()

    @property
    def step(self) -> str:
        """ "points" or the unit: what differences are counted in."""
        return "points" if self.fraction else self.unit or self.name

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Metric:
        """Of what `to_json` made; keys of a later version are left alone."""
        known = {key: found[key] for key in cls.__dataclass_fields__ if key in found}
        return cls(**known)

    @property
    def label(self) -> str:
        """ "top-1, fraction" or "PSNR, dB": in a table's metadata."""
        return ", ".join(filter(None, (self.name, "fraction" if self.fraction else self.unit)))


TOP1 = Metric("top-1", PER_CENT, "max")
"""That of classification; its chance is known once the data is."""
