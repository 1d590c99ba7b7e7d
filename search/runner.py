"""A search from a configuration to the frontier on disk, by Ray Tune."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from pruning.errors import UserError
from search import interrupt, session
from search.backend import base_task, cluster, final, preflight
from search.config import Config
from search.data import Given
from search.pareto import Patience
from search.session import Session
from search.storage import files as storage
from search.storage import lock
from search.study import make_study
from search.trial import BaseModel
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

    before = session.earlier(config)
    cluster.connect(config, **(stages.ray or {}))
    interrupt.check()
    share = cluster.share(config)
    preflight.check_nodes(config, share.gpus)
    preflight.check_clock(config, share.gpus)
    base = base_task.run(config, before, stages.prepare, share, say, _load_tune, given)
    interrupt.check()
    problem = base.problem(config.search)
    study = None
    if before is not None:
        session.check_same(before, config, base, problem)
    else:  # may refuse, and then nothing is written
        study = make_study(config, base.states, problem, share.slots, base.metric)
    with lock.hold(storage.open_uri(config.out), say) as lease:
        current = session.begin(config, before, base, problem)
        # not sooner: another driver may have added to the ledger until now
        study = study or make_study(config, base.states, problem, share.slots, base.metric)
        study.ledger.guard = lease.check
        driven = Session(config, base, study, share, current, say)
        driven.introduce()
        _drive(driven, console, stages, lease)
    return config.out


def _drive(session: Session, console: Console, stages: Stages, lease: lock.Lease) -> None:
    """Trials, final trainings, export; where it is stopped, what there is of it."""
    config, base = session.config, session.base
    try:
        members = None
        if _trials(session, console, stages):
            members = stages.measure(config, base, session.complete, session.share, session.say)
    except BaseException as error:  # bad luck or Ctrl-C: what is finished must be of use
        lease.check()
        try:
            session.put_away()
        except UserError as failure:  # on a disk that is full
            session.say(f"the frontier so far could not be written: {failure}")
        if not isinstance(error, KeyboardInterrupt) and not interrupt.came():
            raise
        return
    lease.check()
    if members is None:
        session.put_away()
    else:
        session.finish(members)


def _trials(session: Session, console: Console, stages: Stages) -> bool:
    """Run trials until none is left to run; False if the user stopped it."""
    interrupt.check()
    config, study, share = session.config, session.study, session.share
    reference = session.reference
    patience = None
    if (trials := config.search.patience) is not None:
        patience = Patience(trials, config.search.patience_share, reference)
    if study.over(config.trials, patience):
        return True
    from search.backend import tuner

    trainable = tuner.trainable(config, session.base, share, stages.open_context, stages.body)
    return tuner.run(config, trainable, study, share.slots, patience, reference, console)


def _load_tune() -> None:
    """Ray Tune takes a second to import: the driver has it while the base model is prepared."""
    importlib.import_module("search.backend.tuner")
