"""A search from a configuration to the frontier on disk, by Ray Tune."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from pruning.errors import UserError
from search import interrupt
from search.backend import base_task, cluster, final, preflight
from search.config import Config
from search.data import Given
from search.frontier import correlation, points
from search.pareto import Patience, Reference, growth
from search.report import page
from search.storage import Row, lock, record, results
from search.storage import files as storage
from search.study import Study, make_study
from search.trial import BaseModel, base_model
from search.trial import trial as trial_body


@dataclass(frozen=True)
class Stages:
    """What a search is made of besides its settings; tests put their own in."""

    prepare: Callable[..., BaseModel] = base_task.prepare
    open_context: trial_body.Open = trial_body.TrialContext.open
    body: trial_body.Body = trial_body.run
    measure: final.Measure = final.measure
    ray: dict[str, Any] | None = None


def run(
    config: Config,
    console: Console | None = None,
    stages: Stages | None = None,
    given: Given | None = None,
) -> str:
    """Search, or go on with a search; returns the run's address.

    given: a network and images that have no name, handed in by a program (see `search.api`). Bad
    input raises UserError before anything is written to the run's folder.
    """
    console, stages = console or Console(), stages or Stages()

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    place = storage.open_uri(config.out)
    before = results.find_record(place)
    if before is None:
        record.check_free(place)
    else:
        record.check(before, config)
    record.check_warm_start(config)
    storage.check_writable(place)
    if config.resources.storage_path is not None:
        storage.check_writable(storage.open_uri(config.resources.storage_path))
    cluster.connect(config, **(stages.ray or {}))
    interrupt.check()
    share = cluster.share(config)
    preflight.check_nodes(config, share.gpus)
    base = base_task.run(config, before, stages.prepare, share, say, _load_tune, given)
    if before is not None:
        record.check_data(before, base.data, config)
    interrupt.check()
    problem = base_model.problem(base.channel_graph(), config.search)
    if before is not None:
        record.check_base(before, base_model.facts(base, problem), config)
    study = None
    if before is None:  # may refuse, and then nothing is written
        study = make_study(config, base.states, problem, share.slots)
    with lock.hold(place, say) as lease:
        if before is None and results.find_record(place) is not None:
            raise UserError(f"another process has begun {config.out}; give the command once more")
        # not sooner: another driver may have added to the ledger until now
        study = study or make_study(config, base.states, problem, share.slots)
        study.ledger.guard = lease.check
        current = before or record.create(
            config, base_model.facts(base, problem), base.info.classes
        )
        current = record.update(place, current, status="running", config=_plain(config))
        if not storage.exists(place / base_model.FILE):
            base_model.store(base, config.out)
        for line in base.notes:
            say(line)
        _introduce(config, current, study, share, say)
        _drive(config, place, base, current, study, share, console, stages, lease)
    return config.out


def _drive(
    config: Config,
    place: storage.Location,
    base: BaseModel,
    current: dict[str, Any],
    study: Study,
    share: cluster.TrialResources,
    console: Console,
    stages: Stages,
    lease: lock.Lease,
) -> None:
    """Trials, final trainings, export; what there is of it where it is stopped."""

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    try:
        finished = _trials(config, base, study, share, record.reference(current), console, stages)
        members = stages.measure(config, base, _complete(study), share, say) if finished else []
    except BaseException as error:  # bad luck or Ctrl-C: what is finished must be of use
        lease.check()
        try:
            _put_away(config, place, base, current, study, say)
        except UserError as failure:  # on a disk that is full
            say(f"the frontier so far could not be written: {failure}")
        if not isinstance(error, KeyboardInterrupt):
            raise
        return
    lease.check()
    if not finished:
        _put_away(config, place, base, current, study, say)
        return
    study.ledger.compact()
    _export(config, members, study, current)
    cost = {
        "trials": study.finished,
        "seconds": sum(row.wall_s for row in study.rows),
        "final_seconds": final.seconds(config),
    }
    record.update(place, current, status="complete", frontier=len(members), cost=cost)
    page.write(config.out)
    if expected := growth.outlook(study.rows, record.reference(current)):
        say(expected)
    for line in correlation.remarks(study.rows, study.cost.base_macs):
        say(line)
    failures = Counter(row.reason for row in study.rows if row.status == "failed")
    for reason, _ in failures.most_common(1):
        count = failures.total()
        trials = "1 trial" if count == 1 else f"{count} trials"
        say(
            f"{trials} failed{', mostly' if len(failures) > 1 else ''}: {reason}; once that is "
            "mended, the same command with --search.retry_failed true runs what failed again"
        )


def _complete(study: Study) -> list[Row]:
    return [row for row in study.rows if row.status == "complete"]


def _put_away(
    config: Config,
    place: storage.Location,
    base: BaseModel,
    current: dict[str, Any],
    study: Study,
    say: Callable[[str], None],
) -> None:
    """Leave an interrupted run with the frontier so far, and say how to go on."""
    study.close()
    current = record.update(place, current, status="interrupted", exported=False)
    study.ledger.compact()
    members = final.so_far(config, base, _complete(study))
    _export(config, members, study, current)
    record.update(place, current, exported=True)  # frontier.parquet and points/ agree again
    page.write(config.out)
    say(f"stopped; the same command goes on from {study.finished} finished trials")


def _export(
    config: Config, members: list[final.Member], study: Study, current: dict[str, Any]
) -> None:
    points.export(config.out, members, study.rows, current)
    if config.search.keep_checkpoints == "frontier":
        points.forget_checkpoints(config.out, study.rows)


def _trials(
    config: Config,
    base: BaseModel,
    study: Study,
    share: cluster.TrialResources,
    reference: Reference,
    console: Console,
    stages: Stages,
) -> bool:
    """Run trials until none is left to run; False if the user stopped it."""
    interrupt.check()
    patience = None
    if (trials := config.search.patience) is not None:
        patience = Patience(trials, config.search.patience_share, reference)
    if study.over(config.trials, patience):
        return True
    from search.backend import tuner

    trainable = tuner.trainable(config, base, share, stages.open_context, stages.body)
    return tuner.run(config, trainable, study, share.slots, patience, reference, console)


def _load_tune() -> None:
    """Ray Tune takes a second to import: the driver has it while the base model is prepared."""
    with interrupt.at_once():
        importlib.import_module("search.backend.tuner")


def _introduce(
    config: Config,
    current: dict[str, Any],
    study: Study,
    share: cluster.TrialResources,
    say: Callable[[str], None],
) -> None:
    val, test = current["base_top1_val"], current["base_top1_test"]
    say(
        f"base model: {current['base_macs'] / 1e6:.2f} M MACs, {current['base_params']:,} "
        f"parameters, top-1 val {val:.2%}, test {test:.2%}"
    )
    if not study.finished and (asked := base_model.question(config)):
        say(asked)
    if val > test + 0.03:
        say("val is far above test: the base model has seen val, so val accuracies read high")
    if study.finished:
        say(f"going on after {study.finished} finished trials")
    device = f"{share.gpus:g} GPU" if share.gpus else f"{share.cpus:g} CPU"
    say(f"{share.slots} trials at a time, each with {device}")
    alone = share.gpus >= 1 or share.slots == 1
    if current["config"]["search"]["max_latency_ms"] is not None and not alone:
        say(
            "latencies are measured while other trials use the same device: for quiet ones give "
            "each trial a whole GPU, or on a CPU set resources.max_concurrent to 1"
        )


def _plain(config: Config) -> dict[str, Any]:
    from search.config import loader as configuration

    return configuration.to_dict(config)
