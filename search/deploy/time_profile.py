"""`slimfront profile --latency`: where a network's time goes, and at which widths it falls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from pruning.graph import lattice, trace
from pruning.latency import (
    LatencyTable,
    Runtime,
    Step,
    falls,
    measured_table,
    threads,
    wasted,
)

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 12  # layers


@dataclass(frozen=True)
class TimeProfile:
    """Time of a batch of one. layers: ms by weight; steps: by group, its widths and their times.

    wasted: by group the widths that are no faster than a wider one.
    """

    runtime: str
    ms: float
    layers: Mapping[str, float]
    steps: Mapping[str, tuple[Step, ...]]
    wasted: Mapping[str, tuple[int, ...]]


def time_profile_of(
    model: nn.Module,
    shape: tuple[int, ...],
    runtime: Runtime,
    divisor: int | None,
    keep: str,
    min_width: Mapping[str, float] | None,
    console: Console,
) -> TimeProfile:
    """Time the layers of `model` and some slim versions, on one thread, with progress."""
    graph = trace(model, shape, keep=keep)
    lat = lattice(graph, divisor, least=min_width)
    with threads(1), console.status(f"timing with {runtime.name} …") as status:
        table: LatencyTable = measured_table(model, graph, lat, runtime, status.update)
        described = runtime.describe()
    steps = {each.name: falls(table, graph, lat, g) for g, each in enumerate(graph.groups)}
    return TimeProfile(
        runtime=described,
        ms=float(table.measured.ms[0]),
        layers=table.layers(graph.widths),
        steps=steps,
        wasted={name: found for name, own in steps.items() if (found := wasted(own))},
    )


def show_times(found: TimeProfile, console: Console) -> None:
    """Tables of the layers that take most of the time, and of every group's staircase."""
    from rich.markup import escape
    from rich.table import Table

    times = sorted(found.layers.items(), key=lambda pair: -pair[1])
    layers = Table(title=f"time of one image: {found.ms:.3g} ms, {found.runtime}")
    layers.add_column("layer", overflow="fold")
    layers.add_column("ms", justify="right")
    layers.add_column("of all", justify="right")
    for name, ms in times[:SHOWN]:
        layers.add_row(escape(name.removesuffix(".weight")), f"{ms:.3g}", f"{ms / found.ms:.1%}")
    others = sum(ms for _, ms in times[SHOWN:])
    rest = max(found.ms - sum(found.layers.values()), 0.0)
    if others:
        label = f"{len(times) - SHOWN} further layers"
        layers.add_row(label, f"{others:.3g}", f"{others / found.ms:.1%}")
    layers.add_row("between layers", f"{rest:.3g}", f"{rest / found.ms:.1%}")
    console.print(layers)
    stairs = Table(title="time of the whole network with one group cut")
    stairs.add_column("group", overflow="fold")
    stairs.add_column("width: time, of the whole network's", overflow="fold")
    stairs.add_column("no faster than wider ones", overflow="fold")
    for name, steps in found.steps.items():
        shown = "  ".join(f"{step.width}: {step.share:.0%}" for step in steps)
        none = " ".join(map(str, found.wasted.get(name, ())))
        stairs.add_row(escape(name), shown, none)
    console.print(stairs)
