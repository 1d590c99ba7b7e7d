"""Trials by Ray Tune: searcher, scheduler, watchdog and progress put together."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from ray import tune
from ray.air.execution._internal import RayActorManager
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune import CheckpointConfig, RunConfig, TuneConfig, Tuner
from rich.console import Console

from search.backend import cluster, scheduler, worker
from search.backend.progress import Progress, seconds_left
from search.backend.scheduler import ReportingScheduler
from search.backend.searcher import FrontierSearcher, RetryingSearcher
from search.backend.timeout import Watchdog
from search.config import Config
from search.pareto import Patience, Reference
from search.storage import files
from search.study import Candidate, Study
from search.trial import BaseModel, Body, Open

# Tune's own tables would scroll over the progress display
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")  # the ledger has the reason


def trainable(
    config: Config,
    base: BaseModel,
    share: cluster.TrialResources,
    open_context: Open,
    body: Body,
    job_of: Callable[[Mapping[str, Any]], Any] = Candidate.from_config,
) -> Any:
    """What Tune runs: workers with a trial's resources, to which the base model is sent once."""
    made = tune.with_parameters(
        worker.TrialWorker,
        settings=config,
        base=base,
        open_context=open_context,
        body=body,
        job_of=job_of,
    )
    return tune.with_resources(made, share.resources)


def fit(
    config: Config,
    trainable: Any,
    searcher: RetryingSearcher,
    scheduler: ReportingScheduler,
    slots: int,
    callbacks: Sequence[tune.Callback],
    part: str = "",
) -> None:
    """Run what the searcher suggests, `slots` at a time; returns early where the user stops it.

    part: of the run, in the name of its logs. A worker that dies is the searcher's to retry.
    """
    name = os.path.basename(config.out.rstrip("/")) or "tune"
    with (
        tempfile.TemporaryDirectory(prefix="slimfront-") as scratch,
        _own_interrupts(),
        _deaths_by_memory(),
    ):
        Tuner(
            trainable,
            tune_config=TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=-1,
                max_concurrent_trials=slots,
                reuse_actors=True,
                trial_name_creator=worker.trial_name,
                trial_dirname_creator=worker.trial_name,
            ),
            run_config=RunConfig(
                name="-".join(filter(None, (name, part))),
                storage_path=config.resources.storage_path or scratch,
                callbacks=list(callbacks),
                checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()


def run(
    config: Config,
    trainable: Any,
    study: Study,
    slots: int,
    patience: Patience | None,
    reference: Reference,
    console: Console,
) -> bool:
    """Run trials, `slots` at a time, until none is left to run; False if the user stopped it.

    UserError where the ledger cannot be written or a worker says that no trial can succeed.
    """
    searcher = FrontierSearcher(study, config.trials, patience)
    watch = []
    if (limit := config.search.trial_timeout_s) is not None:
        reason = f"exceeded search.trial_timeout_s, {limit:g} s"
        watch.append(Watchdog(limit, searcher.ends, reason))
    chosen = scheduler.make(config.search, config.finetune.epochs, study, reference, searcher.ends)
    run = files.open_uri(config.out)
    metric, axis = reference.metric, reference.axis
    left = partial(seconds_left, config=config, slots=slots, metric=metric, axis=axis)
    with Progress(study, config.trials, reference, console, run, left) as progress:
        fit(config, trainable, searcher, chosen, slots, [progress, *watch])
    study.close()  # Ctrl-C makes Tune leave trials behind
    if searcher.error:
        raise searcher.error
    if searcher.exhausted and study.finished < config.trials:
        console.print(
            f"no new feasible network after {study.finished} of {config.trials} trials: "
            "the space has been searched through",
            highlight=False,
        )
    if study.settled(patience) and study.finished < config.trials:
        console.print(
            f"ended after {study.finished} of {config.trials} trials: the last "
            f"{config.search.patience} grew the hypervolume by less than "
            f"{config.search.patience_share:.1%}",
            highlight=False,
        )
    return searcher.exhausted or study.over(config.trials, patience)


@contextmanager
def _own_interrupts() -> Iterator[None]:
    """Tune takes Ctrl-C for itself and, where none came, keeps it: it would be lost afterwards."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)


@contextmanager
def _deaths_by_memory() -> Iterator[None]:
    """Where a node is short of memory, Ray ends workers with an error of its own.

    Tune knows errors of actors and of their code alone; any other ends the whole search with it
    (Ray 2.60). Here it is the end of a worker like any other.
    """
    name = "_actor_task_failed"
    original = getattr(RayActorManager, name)

    def failed(self: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
        known = isinstance(exception, RayActorError | RayTaskError)
        if isinstance(exception, RayError) and not known:
            exception = RayActorError(error_msg=str(exception))
        original(self, tracked_actor_task=tracked_actor_task, exception=exception)

    setattr(RayActorManager, name, failed)
    try:
        yield
    finally:
        setattr(RayActorManager, name, original)
