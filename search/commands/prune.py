"""`slimfront prune`: one network, pruned once to a MAC target, to one file. No search, no Ray."""

from __future__ import annotations

import itertools
import json
import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pruning.errors import UserError
from search.config import loader, quantity
from search.pareto import Metric

if TYPE_CHECKING:
    from pruning.methods import Problem

USAGE = (
    "[CONFIG] --macs 50% [--method gain-curve] [--repair feedback] [--to model.safetensors] "
    "[--finetune.epochs 0] [--key.sub value] … [--force] [--json]"
)


class _Flags(ArgumentParser):
    def error(self, message: str) -> Any:
        raise UserError(f"{message}; {self.prog} --help lists the options")


def run(argv: Sequence[str], prog: str) -> None:
    """Prune as the flags say; prints what came out, or JSON."""
    parser = _Flags(
        prog=prog,
        usage=f"{prog} {USAGE}".replace("%", "%%"),
        description="Prune once: the method allocates widths for the MAC target, selects, repairs; "
        "then fine-tuning as `finetune` says. All options of `search` that concern model, data, "
        "base and finetune apply.",
        allow_abbrev=False,
    )
    parser.add_argument("--method", help="pruning method (default: CONFIG's, gain-curve)")
    parser.add_argument("--macs", default="50%", help="MAC target: 50%%, 60M, … (default: 50%%)")
    parser.add_argument("--repair", help="none, compensate or feedback (default: CONFIG's)")
    parser.add_argument(
        "--to",
        default="model.safetensors",
        help="file or URI of the slim model, not one that is there (default: model.safetensors)",
    )
    parser.add_argument("--force", action="store_true", help="replace the file --to")
    parser.add_argument("--json", action="store_true", help="print JSON")
    own, rest = parser.parse_known_args(list(argv))
    if foreign := {"--out", "--trials"} & {word.partition("=")[0] for word in rest}:
        parser.error(f"{foreign.pop()} belongs to search; --to names the file of the slim model")

    from pruning import methods
    from pruning.oneshot import REPAIRS

    if own.repair not in (None, *REPAIRS):
        parser.error(f"--repair {own.repair}: choose one of {', '.join(REPAIRS)}")
    if own.method:
        methods.get(own.method)  # one of them, by its name
    settings = loader.load(rest, prog)
    method = own.method or settings.search.method
    if len(loader.method_names(method)) > 1:
        parser.error(f"CONFIG names several methods ({method}); choose one with --method")
    search = replace(settings.search, method=method, seeds=False, cost="macs", max_latency_ms=None)
    if own.repair:
        search = replace(search, repair=own.repair)
    settings = replace(settings, search=search)
    loader.validate(settings)
    target = quantity.parse(own.macs, "--macs")
    check_target(own.to, inputs(rest, settings), force=own.force)
    result = prune(settings, target, own.to, force=own.force, quiet=own.json)
    if own.json:
        print(json.dumps(result, indent=1))
    else:
        show(result)


def inputs(argv: Sequence[str], settings: loader.Config) -> list[str]:
    """Files that the command reads: CONFIG if it is one, and the weights."""
    source, _ = loader.parse(argv)
    given = [] if source in (loader.NEUTRAL, *loader.packaged()) else [source]
    return given + ([settings.model.weights] if settings.model.weights else [])


def check_target(place: str, given: Sequence[str], *, force: bool) -> None:
    """UserError where writing to `place` would lose what the user gave, or what is there."""
    from pruning.models import files as uri
    from search.storage import files as storage

    target = storage.open_uri(place)
    if storage.is_folder(target):
        raise UserError(f"--to {place} is a folder; name a file in it, as {place}/slim.safetensors")
    if any(uri.same_file(place, file) for file in given):
        raise UserError(f"--to {place} is a file that this command reads; name another")
    if not force and storage.exists(target):
        raise UserError(f"--to {place} is there already; name another file, or --force replaces it")
    storage.check_writable(target.parent)


def check_reachable(target: quantity.Quantity, problem: Problem) -> None:
    """UserError where no choice of widths has so few MACs."""
    from search.study import limits

    cost, low = problem.cost, problem.lattice.low
    said = f"--macs {quantity.human(target.of(cost.base_macs))}"
    limits.reached(target, said, cost.base_macs, int(cost.macs(low)), "MACs")


def prune(
    settings: loader.Config,
    target: quantity.Quantity,
    place: str,
    *,
    force: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Prune and fine-tune one network, write it; what was done, scores in the metric."""
    import time

    import torch

    from pruning import methods
    from search.trial import base_model, trial

    def say(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    check = partial(check_reachable, target)
    base = base_model.prepare(settings, device=device, say=say, check=check)
    work = trial.TrialContext.open(settings, base, device, say)
    metric = base.metric
    say(f"base model: {metric.name} val {metric.show(base.val)}, test {metric.show(base.test)}")
    if asked := base_model.question(settings):
        say(asked)
    name, problem = settings.search.method, work.problem
    method = methods.get(name)
    macs = target.of(problem.cost.base_macs)
    began = time.perf_counter()
    widths = method.allocate(base.states[name], problem, macs)
    allocate_s = time.perf_counter() - began
    slimmed = trial.slim(work, name, widths, {})
    repaired = work.score(slimmed.model)
    recipe, seconds = settings.finetune.recipe(), 0.0
    before, tuned = work.before(slimmed.model, repaired), repaired
    for epoch, score in trial.tune(work, slimmed.model, recipe, settings.seed):
        seconds, tuned = seconds + epoch.seconds, score
    state, val = before.better(slimmed.model, tuned)
    test = work.score(slimmed.model, "test")
    if not force:
        place = _free(place)
    trial.save(work, slimmed.model, slimmed.widths, place, method=name, score_val=val)
    return {
        "method": name,
        "faithfulness": method.faithfulness,
        "repair": settings.search.repair,
        "asked_macs": round(macs),
        "macs": problem.cost.macs(slimmed.widths),
        "macs_share": problem.cost.macs(slimmed.widths) / problem.cost.base_macs,
        "params": problem.cost.params(slimmed.widths),
        "widths": slimmed.widths.tolist(),
        "metric": metric.to_json(),
        "base_score_val": base.val,
        "base_score_test": base.test,
        "score_pruned": slimmed.pruned,
        "score_repaired": repaired,
        "score_val": val,
        "state": state if recipe.epochs else "repaired",
        "score_test": test,
        "prepare_s": base.measured_s[name],
        "allocate_s": allocate_s,
        "repair_s": slimmed.repair_s,
        "finetune_s": seconds,
        "epochs": recipe.epochs,
        "model": place,
    }


def _free(place: str) -> str:
    """The file, or one beside it where another has come to be there during the training."""
    from search.storage import files as storage

    address, mark, query = place.partition("?") if "://" in place else (place, "", "")
    stem, ending = os.path.splitext(address)
    names = (f"{stem}{f'-{k}' if k else ''}{ending}{mark}{query}" for k in itertools.count())
    return next(name for name in names if not storage.exists(storage.open_uri(name)))


def show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{result['method']} ({result['faithfulness']})", show_header=False)
    human = quantity.human
    share = f"{result['macs_share']:.1%} of base"
    table.add_row("MACs", f"{human(result['macs'])}, {share} (asked {human(result['asked_macs'])})")
    table.add_row("parameters", human(result["params"]))
    steps = {
        "after the cut": "score_pruned",
        "repaired, BN recalibrated": "score_repaired",
        f"fine-tuned {result['epochs']:g} epochs": "score_val",
    }
    metric = Metric.from_json(result["metric"])
    for label, key in steps.items():
        table.add_row(f"{metric.axis} on val, {label}", metric.number(result[key]))
    test, base = (metric.number(result[f"{whose}score_test"]) for whose in ("", "base_"))
    table.add_row(f"{metric.axis} on test", f"{test} (base {base})")
    parts = ("prepare", "allocate", "repair", "finetune")
    spent = ", ".join(f"{part} {result[part + '_s']:.2f}" for part in parts)
    table.add_row("seconds", spent)
    table.add_row("model", str(result["model"]))
    Console().print(table)
