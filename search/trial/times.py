"""A run's milliseconds: the table that foretells them, and whole networks measured. No Ray here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from pruning.errors import UserError
from pruning.graph import ChannelGraph, Lattice
from pruning.latency import (
    LatencyTable,
    Timing,
    from_json,
    is_shape,
    measured_table,
    runtime_of,
    threads,
    time_networks,
    to_json,
)
from search.config import LatencyConfig, SearchConfig
from search.tasks import Workload

FILE = "latency.json"  # of a run
SAY_EVERY = 10.0  # seconds
DAMAGE = (IndexError, AttributeError, StopIteration, RecursionError)  # what else JSON can do
ROUNDS = 3  # of measuring the members


def wanted(search: SearchConfig) -> bool:
    """Whether a search needs to know times before anything runs."""
    return search.cost == "latency" or search.max_latency_ms is not None


def example_of(work: Workload) -> Any:
    """What networks are timed on: None where the shape of one input says it all."""
    found = work.example
    plain = is_shape(found) or (isinstance(found, Tensor) and not work.about.inputs)
    return None if plain else found


def table_of(
    net: nn.Module,
    graph: ChannelGraph,
    lattice: Lattice,
    options: LatencyConfig,
    example: Any = None,
    say: Callable[[str], None] = print,
) -> str:
    """The table of a network as JSON; layers that this device has timed before are not timed."""
    runtime = runtime_of(options.runtime, options.batch)
    began = said = time.monotonic()

    def now_and_then(text: str) -> None:
        nonlocal said
        if time.monotonic() - said > SAY_EVERY:
            said = time.monotonic()
            say(f"{options.runtime}: {text}")

    with threads(options.threads):
        say(f"timing layers and slim networks with {runtime.describe()}")
        found = measured_table(net.eval(), graph, lattice, runtime, now_and_then, example)
    whole, spent = float(found.measured.ms[0]), time.monotonic() - began
    say(
        f"timed in {spent:.0f} s: a batch of {options.batch} takes the whole network {whole:.3g} ms"
    )
    return to_json(found)


def read(text: str, graph: ChannelGraph) -> LatencyTable:
    """The table of a run; UserError where it is damaged or of another network."""
    try:
        found = from_json(text, graph)
        if not np.isfinite(found(graph.widths)):
            raise ValueError("no finite times")
        return found
    except (*DAMAGE, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{FILE} of the run is damaged or of another network ({error}); copy the run again, "
            "or choose another --out"
        ) from error


def whole(
    net: nn.Module,
    graph: ChannelGraph,
    options: LatencyConfig,
    widths: Sequence[Sequence[int]],
    example: Any = None,
) -> tuple[str, list[Timing]]:
    """Slim networks measured one after the other, and what they were measured with.

    In ROUNDS turns, of which each network's middle one counts: what else a machine does comes and
    goes.
    """
    runtime = runtime_of(options.runtime, options.batch)
    rows = [np.array(each, dtype=np.int64) for each in widths]
    with threads(options.threads):
        turns = [time_networks(net.eval(), graph, runtime, rows, example) for _ in range(ROUNDS)]
        found = [
            sorted(each, key=lambda timing: timing.median_ms)[ROUNDS // 2]
            for each in zip(*turns, strict=True)
        ]
        return runtime.describe(), found
