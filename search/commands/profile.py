"""`slimfront profile`: what a search could do with a network, before any of it runs."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pruning.errors import UserError
from search.config import (
    Config,
    DataConfig,
    ModelConfig,
    Parser,
    ProfileOptions,
    SearchConfig,
    human,
)
from search.config import loader as configs
from search.data import KINDS

if TYPE_CHECKING:
    from rich.console import Console

    from search.commands.profiling import Profile

INPUT = re.compile(r"(\d+)x(\d+)x(\d+)")


def run(argv: Sequence[str], prog: str) -> None:
    """Print groups, fixed layers and reachable MACs; UserError where limits cannot be met."""
    parser = Parser(
        prog=prog,
        usage=f"{prog} MODEL_OR_CONFIG [--input 3x224x224] [--max-macs 60%] [--json]",
        description=(
            "Trace a network once and show what a search could do with it, without reading "
            "weights or images. Exit code 2 where the limits cannot be met."
        ),
    )
    parser.add_argument(
        "model_or_config",
        metavar="MODEL_OR_CONFIG",
        help="a network (resnet56, torchvision:resnet50, …), or a search's CONFIG",
    )
    parser.add_dataclass(ProfileOptions)
    parser.add_argument("--json", action="store_true", help="print JSON")
    found = parser.read(argv)
    options = ProfileOptions(**{f.name: found[f.name] for f in dataclasses.fields(ProfileOptions)})
    _profile(found["model_or_config"], options, found["json"])


def _profile(subject: str, options: ProfileOptions, as_json: bool) -> None:
    config = None
    if configs.is_config(subject):
        # not `load`: a network can be profiled where neither its weights nor its images are
        config = configs.from_dict(configs.read(subject), subject)
    model, shape, search = _merge(subject, options, config)

    from rich.console import Console

    from pruning.latency import runtime_of
    from pruning.models import resolve
    from search import deploy
    from search.commands import profiling

    runtime = None if options.latency is None else runtime_of(options.latency)

    network = resolve(model.name, model.args, trust=model.trust_factory)
    found, problem = profiling.profile(network, shape, search)
    console = Console(stderr=as_json)
    timed = None
    if runtime is not None:
        divisor = None if search.divisor == "auto" else search.divisor
        timed = deploy.time_profile_of(
            network, shape, runtime, divisor, search.keep, search.min_width, console
        )
    if as_json:
        verdict = {"satisfiable": not problem, "problem": problem or None}
        plain = {"model": model.name} | dataclasses.asdict(found) | verdict
        print(
            json.dumps(plain | ({"latency": dataclasses.asdict(timed)} if timed else {}), indent=1)
        )
    else:
        _show(model.name, found, console)
        if timed is not None:
            deploy.show_times(timed, console)
    if problem:
        raise UserError(problem)
    limits = {key: getattr(search, key) for key in ("max_macs", "min_macs", "max_params")}
    given = ", ".join(f"{key} {value}" for key, value in limits.items() if value is not None)
    if given and not as_json:
        print(f"limits that can be met: {given}")


def input_shape(given: str | None, model: str, data: DataConfig | None) -> tuple[int, int, int]:
    """(C, H, W): as given, else the data's, else what networks from that source usually take."""
    if given is not None:
        match = INPUT.fullmatch(given)
        if match is None or "0" in match.groups():
            raise UserError(f"--input {given}: write channels x height x width, as in 3x224x224")
        return (int(match[1]), int(match[2]), int(match[3]))
    if data is not None and data.name in KINDS:
        size = data.image_size or KINDS[data.name].size
        return (len(KINDS[data.name].mean), size, size)
    source, _, name = model.rpartition(":")
    if source in ("torchvision", "timm"):
        return (3, 224, 224)
    if source in ("", "zoo"):
        return (1, 8, 8) if name == "digits" else (3, 32, 32)
    raise UserError(f"no input shape is known for {model}; add --input, as in --input 3x224x224")


def _merge(
    subject: str, options: ProfileOptions, config: Config | None
) -> tuple[ModelConfig, tuple[int, int, int], SearchConfig]:
    """The model, its input shape, and the search: flags first, then the configuration."""
    base = config or Config(model=ModelConfig(name=subject))
    shape = input_shape(options.input, base.model.name, config.data if config else None)
    args = base.model.args | options.args
    source = base.model.name.rpartition(":")[0]
    known = KINDS[config.data.name].outputs if config and config.data.name in KINDS else 0
    if options.outputs or (known and source in ("", "zoo", "torchvision", "timm")):
        args["num_classes"] = options.outputs or args.get("num_classes", known)
    if source in ("", "zoo"):
        args.setdefault("in_channels", shape[0])
    trust = options.trust_factory or base.model.trust_factory
    keys = ("divisor", "min_ratio", "keep", "min_width", "max_macs", "min_macs", "max_params")
    flags = {key: getattr(options, key) for key in keys}
    given = {key: flag for key, flag in flags.items() if flag is not None}
    search = dataclasses.replace(base.search, **given)
    return dataclasses.replace(base.model, args=args, trust_factory=trust), shape, search


def _show(name: str, found: Profile, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    shape = "x".join(map(str, found.input_shape))
    groups = Table(
        title=f"{name}, input {shape}: {len(found.groups)} groups, {found.layers} layers"
    )
    groups.add_column("group", overflow="fold")
    for column in ("channels", "granularity", "step", "least", "frees"):
        groups.add_column(column, justify="right")
    for group in found.groups:
        counts = (group.channels, group.granularity, group.step, group.low)
        groups.add_row(escape(group.name), *map(str, counts), f"{group.macs_share:.1%}")
    console.print(groups)
    console.print(
        "channels of a group are cut together; granularity: so many of them only at once; step: "
        "its widths are multiples of it; least: fewest channels; frees: share of the MACs that "
        "cutting this group alone saves; a width ratio keeps that share of every group's channels",
        style="dim",
    )
    fixed = Table(title=f"{len(found.fixed)} fixed")
    fixed.add_column("layer", overflow="fold")
    fixed.add_column("why it is never cut", overflow="fold")
    for layer, reason in found.fixed.items():
        fixed.add_row(escape(layer), escape(reason))
    console.print(fixed)
    if found.uncounted:
        console.print(f"not counted, so that MACs are too low: {', '.join(found.uncounted)}")
    sizes = Table(title="reachable")
    for column in ("", "width ratio", "MACs", "of base", "parameters"):
        sizes.add_column(column, justify="right")
    for label in ("minimum", "centre", "maximum"):
        size = getattr(found, label)
        share = f"{size.macs / found.maximum.macs:.1%}"
        sizes.add_row(label, f"{size.ratio:.2f}", human(size.macs), share, human(size.params))
    console.print(sizes)
