"""The options of `slimfront profile`, with their units. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class ProfileOptions:
    """What to profile.

    Args:
        input: Input shape, channels x height x width, as 3x224x224; null is the data's or the
            model's usual one.
        outputs: Number of outputs; null is the data's or the model's usual one.
        args: Further arguments of the network's factory, as in {"num_classes": 100}.
        trust_factory: Allow package.module:factory, which runs that package's code (true or false).
        divisor: Widths are multiples of this, or auto; null is the configuration's.
        min_ratio: Fewest channels of a group that may stay, as a share (0 to 1); null is the
            configuration's.
        keep: Layers, groups or modules that stay whole, as glob patterns; null is the
            configuration's.
        min_width: Fewest channels by such patterns, as shares or numbers: {"stem.*": 0.5}; null is
            the configuration's.
        max_macs: Most MACs for one image, to check: "60%" of the whole, "60M" or a plain number.
        min_macs: Fewest MACs for one image, to check.
        max_params: Most parameters, to check.
        latency: Time the layers, too, on one thread: torch, torch:cuda or onnxruntime. Takes a
            minute for each new kind of network; timings are kept for the next.
    """

    input: str | None = None
    outputs: int | None = None
    args: dict[str, Any] = field(default_factory=dict)
    trust_factory: bool = False
    divisor: int | Literal["auto"] | None = None
    min_ratio: float | None = None
    keep: str | None = None
    min_width: dict[str, float] | None = None
    max_macs: str | int | float | None = None
    min_macs: str | int | float | None = None
    max_params: str | int | float | None = None
    latency: str | None = None
