"""The base model of a run: built or trained once, measured, traced; plain data for every trial."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning.errors import UserError
from pruning.graph import ChannelGraph, lattice, plain, trace
from pruning.latency import followed
from pruning.methods import Problem, State
from pruning.models import ModelInfo, checkpoint, files, write_tensors
from search import tasks
from search.config import NAMED, Config, SearchConfig, method_names
from search.data import Given
from search.pareto import TOP1, CostAxis, Metric
from search.study import PATH, limits
from search.tasks import TaskError, Workload
from search.trial import base_cache as states
from search.trial import budget, times, whole_model

FILE = "base.safetensors"  # of a run


@dataclass(frozen=True)
class BaseModel:
    """What the trials need of the base model: arrays and text only, shared by the object store.

    weights: the whole state dict; graph: JSON; val, test: scores in `metric`; states: what each
    method measured, and measured_s: in how many seconds; seconds: spent on training (0 with given
    weights). tested: as a `Workload` has it.
    """

    weights: Mapping[str, np.ndarray]
    graph: str
    info: ModelInfo
    val: float
    test: float
    states: Mapping[str, State]
    seconds: float
    measured_s: Mapping[str, float] = field(default_factory=dict)
    data: str = ""  # names the images that trials are trained and scored on
    notes: tuple[str, ...] = ()  # what the user should know of how it was made
    given: Given = field(default_factory=Given)  # what has no name to build it by
    metric: Metric = TOP1
    tested: int = 0
    latency: str = ""  # the table that foretells times, as JSON; "" where none is needed

    def task(self, config: Config, device: str) -> Workload:
        """The task that the trials are trained and scored by, its data read."""
        return tasks.open_task(tasks.load(config, self.given), config, device)

    def channel_graph(self) -> ChannelGraph:
        return ChannelGraph.from_json(self.graph)

    def problem(self, search: SearchConfig) -> Problem:
        """The widths that a search may visit, and what it saves."""
        return problem(self.channel_graph(), search, self.latency)

    def axis(self, search: SearchConfig) -> CostAxis:
        """What a search saves, as people are told of it."""
        base = float(self.problem(search).cost.base)
        if search.cost != "latency":
            return CostAxis(search.cost, int(base))
        table = times.read(self.latency, self.channel_graph())
        return CostAxis(search.cost, base, table.runtime, table.batch)

    def model(self, config: Config) -> nn.Module:
        """The whole network with its weights, on the CPU, in eval mode."""
        net = plain(tasks.skeleton(config, self.info.args, self.given))
        net.load_state_dict({name: tensor(array) for name, array in self.weights.items()})
        return net.eval()


def tensor(array: np.ndarray) -> Tensor:
    """A tensor of its own: arrays from the object store are read-only."""
    return torch.from_numpy(np.array(array, order="C"))


def measured_methods(search: SearchConfig) -> tuple[str, ...]:
    """The methods that the base model is measured for: those searched, and the seeds' own."""
    return tuple(dict.fromkeys((*method_names(search.method), *((PATH,) if search.seeds else ()))))


def problem(graph: ChannelGraph, search: SearchConfig, table: str = "") -> Problem:
    """The widths that this search may visit, and what it saves.

    table: of times, as JSON; without one, nothing but MACs and parameters can be told.
    """
    divisor = None if search.divisor == "auto" else search.divisor
    lat = lattice(graph, divisor, search.min_ratio, search.min_width)
    if not table:
        return Problem(graph, lat, "macs" if search.cost == "latency" else search.cost)
    foretold = times.read(table, graph)
    if search.cost == "latency" and divisor is None:
        lat = followed(foretold, graph, lat)
    return Problem(graph, lat, search.cost, foretold)


def prepare(
    config: Config,
    stored: str | None = None,
    given: Given | None = None,
    *,
    table: str = "",
    device: str = "cpu",
    say: Callable[[str], None] = print,
    check: Callable[[Problem], object] | None = None,
    clock: Callable[..., str] = times.table_of,
) -> BaseModel:
    """Load or train the base model, trace it, score it, and let the methods measure it.

    `stored`: file of an earlier session's base model, used instead, and `table` its times. `given`:
    network (trained) and images that have no name. `check` may refuse the problem before anything
    is trained, besides the search's own limits; `clock` times it, as `times.table_of` does. Raises
    UserError for whatever is wrong with data, weights or their fit; writes nothing.
    """
    given = given or Given()
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        say(line)

    task = tasks.load(config, given)
    work = tasks.open_task(task, config, device)
    for line in work.notes:
        note(line)

    def refuse(net: nn.Module) -> None:
        nonlocal table
        net = plain(net)
        graph, search = trace(net, work.example, keep=config.search.keep), config.search
        budget.check(config, graph, measured_methods(search))
        if times.wanted(search):
            widths = problem(graph, search).lattice
            table = clock(net, graph, widths, config.latency, times.example_of(work), say)
        asked = problem(graph, search, table)
        limits.limits(search, asked)
        if check is not None:
            check(asked)

    try:
        net, seconds = whole_model.build(config, stored, given, task, work, say, note, refuse)
        net = work.settle(plain(net)).eval()  # weights that it computes become its own
        graph = trace(net, work.example, keep=config.search.keep)
        val, test = (_scored(net, graph, work, split) for split in ("val", "test"))
        measured = {}
        memory = budget.workspace(config, graph, device, say)
        for name in measured_methods(config.search):
            say(f"measuring the base model for method {name}")
            measured[name] = states.measure(name, net, graph, work, memory)
    except TaskError as error:
        raise UserError(str(error)) from error
    return BaseModel(
        weights={name: t.detach().cpu().numpy() for name, t in net.state_dict().items()},
        graph=graph.to_json(),
        info=work.about.info(graph),
        val=val,
        test=test,
        states={name: state for name, (state, _) in measured.items()},
        measured_s={name: spent for name, (_, spent) in measured.items()},
        data=work.fingerprint(),
        seconds=seconds,
        notes=tuple(notes),
        metric=work.metric,
        tested=work.tested,
        latency=table,
    )


def _scored(net: nn.Module, graph: ChannelGraph, work: Workload, split: str) -> float:
    """The base model's score; UserError where it is no number."""
    found = states.score(net, graph, work, split)
    if not math.isfinite(found):
        raise UserError(
            f"the base model has {work.metric.name} {found} on {split}; train it, or mend evaluate"
        )
    return found


def store(base: BaseModel, out: str) -> None:
    """Write the base model into the run at `out`, as `base.safetensors`, and its times."""
    if base.latency:
        files.write(files.join(out, times.FILE), base.latency.encode())
    tensors = {name: tensor(array) for name, array in base.weights.items()}
    metadata = {"slimfront": str(checkpoint.FORMAT), "info": base.info.to_json()}
    write_tensors(files.join(out, FILE), tensors, metadata)


def facts(base: BaseModel, problem: Problem) -> dict[str, Any]:
    """What run.json says of the base model."""
    return {
        "model": base.info.model,
        "digest": base.info.digest,
        "data": base.data,
        "macs": problem.cost.base_macs,
        "params": problem.cost.base_params,
        "score_val": base.val,
        "score_test": base.test,
        "train_s": base.seconds,
        "groups": [group.name for group in problem.graph.groups],
        "latency": _times(base, problem),
    }


def _times(base: BaseModel, problem: Problem) -> dict[str, Any] | None:
    """The base model's time as run.json has it; None where nothing foretells it."""
    if problem.cost.latency is None:
        return None
    table = times.read(base.latency, problem.graph)
    predicted, measured = table(problem.graph.widths), table.measured.ms[0]
    whole = {"predicted_ms": float(predicted), "measured_ms": float(measured)}
    return {"runtime": table.runtime, "batch": table.batch} | whole


def question(config: Config) -> str | None:
    """What to ask below the score of a base model whose weights the user gave."""
    if config.model.weights is None or config.task not in NAMED:
        return None
    return tasks.DOUBT
