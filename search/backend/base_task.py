"""The base model and its times as Ray tasks: with a trial's resources, not the driver's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayTaskError
from torch import nn

from pruning.errors import UserError
from pruning.graph import ChannelGraph, Lattice
from pruning.latency import Timing
from pruning.models import files
from search.backend import cluster
from search.config import NAMED, Config, LatencyConfig
from search.data import Given
from search.storage import Row
from search.storage import files as storage
from search.trial import BaseModel, base_model, memory, times


def run(
    config: Config,
    before: Mapping[str, Any] | None,
    prepare: Callable[..., BaseModel],
    share: cluster.TrialResources,
    say: Callable[[str], None],
    meanwhile: Callable[[], object] = lambda: None,
    given: Given | None = None,
) -> BaseModel:
    """The base model by a task with a trial's resources; an earlier session's if there is one."""
    file = storage.open_uri(config.out) / base_model.FILE
    stored = before is not None and storage.exists(file)
    known = files.join(config.out, base_model.FILE) if stored else None
    has_weights = config.model.weights is not None or (given and given.network)
    if known is None and not has_weights and config.task in NAMED:
        say(f"training the base model {config.model.name} ({config.base.epochs:g} epochs)")
    table = {"table": _table(config)} if stored and times.wanted(config.search) else {}
    if times.wanted(config.search) and not stored:
        where = f" on a node with {config.latency.node}" if config.latency.node else ""
        say(
            f"timing layers and slim networks with {config.latency.runtime}{where}: a minute or "
            "two for a new network, then kept"
        )
    try:
        # with .options() Ray would keep the process, and that its memory on the GPU
        task = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus)(prepare)
        result = task.remote(config, known, *(() if given is None else (given,)), **table)
        meanwhile()
        base: BaseModel = ray.get(result)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
    return base if given is None else replace(base, given=given)


def prepare(
    config: Config, stored: str | None = None, given: Given | None = None, table: str = ""
) -> BaseModel:
    """`base_model.prepare` inside the task."""
    memory.keep_heap()
    say, device = partial(print, flush=True), cluster.worker_device(config)
    return base_model.prepare(
        config, stored, given, table=table, device=device, say=say, clock=_clock
    )


def _table(config: Config) -> str:
    """The times of a run that is there; UserError without them."""
    file = storage.open_uri(config.out) / times.FILE
    try:
        return storage.read_bytes(file).decode()
    except (FileNotFoundError, UnicodeDecodeError):
        raise UserError(
            f"{file} is missing or damaged, by which the run's trials were proposed; copy the run "
            "again, or choose another --out"
        ) from None


def _clock(
    net: nn.Module, graph: ChannelGraph, lat: Lattice, options: LatencyConfig, *rest: Any
) -> str:
    """`times.table_of`, on the node that the run names, else here."""
    if options.node is None:
        return times.table_of(net, graph, lat, options, *rest)
    example, say = rest
    say(f"timing on a node with the resource {options.node}")
    task = ray.remote(**cluster.node_of(options))(times.table_of)
    found: str = ray.get(task.remote(net.cpu(), graph, lat, options, example))
    return found


def measure(
    config: Config, base: BaseModel, rows: Sequence[Row], share: cluster.TrialResources
) -> tuple[str, list[Timing]]:
    """Whole networks of `rows` measured on the device of the run's times, and what that is."""
    options = config.latency
    there: dict[str, Any] = share.options
    if options.node is not None:
        there = cluster.node_of(options)
    task = ray.remote(**there)(_measure)
    try:
        found: tuple[str, list[Timing]] = ray.get(
            task.remote(config, base, [list(row.widths) for row in rows])
        )
        return found
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise


def _measure(config: Config, base: BaseModel, widths: list[list[int]]) -> tuple[str, list[Timing]]:
    shape = base.info.input_shape
    single = config.task in NAMED or (not base.info.inputs and len(shape) > 0)
    example = None if single else times.example_of(base.task(config, "cpu"))
    net, graph = base.model(config), base.channel_graph()
    return times.whole(net, graph, config.latency, widths, example)
