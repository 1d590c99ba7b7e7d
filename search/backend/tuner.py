"""The trials of a search by Ray Tune: searcher, scheduler, watchdog and progress put together."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from ray import tune
from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner
from rich.console import Console

from search.backend import cluster, scheduler, worker
from search.backend.progress import Progress, seconds_left
from search.backend.searcher import FrontierSearcher
from search.backend.timeout import Watchdog
from search.config import Config
from search.pareto import Patience, Reference
from search.storage import files
from search.study import Study
from search.trial import BaseModel, Body, Open

# Tune's own tables would scroll over the progress display
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")  # the ledger has the reason
RETRIES = 2  # of a trial whose worker died; the next death is a failed row


def trainable(
    config: Config, base: BaseModel, share: cluster.TrialResources, open_context: Open, body: Body
) -> Any:
    """What Tune runs: workers with a trial's resources, to which the base model is sent once."""
    made = tune.with_parameters(
        worker.TrialWorker, settings=config, base=base, open_context=open_context, body=body
    )
    return tune.with_resources(made, share.resources)


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
    if config.search.trial_timeout_s is not None:
        watch.append(Watchdog(config.search.trial_timeout_s, searcher.reasons))
    run = files.open_uri(config.out)
    left = partial(seconds_left, config=config, slots=slots, metric=reference.metric)
    with (
        tempfile.TemporaryDirectory(prefix="slimfront-") as scratch,
        Progress(study, config.trials, reference, console, run, left) as progress,
    ):
        tuner = Tuner(
            trainable,
            tune_config=TuneConfig(
                search_alg=searcher,
                scheduler=scheduler.make(
                    config.search, config.finetune.epochs, study, reference, searcher.reasons
                ),
                num_samples=-1,
                max_concurrent_trials=slots,
                reuse_actors=True,
                trial_name_creator=worker.trial_name,
                trial_dirname_creator=worker.trial_name,
            ),
            run_config=RunConfig(
                name=os.path.basename(config.out.rstrip("/")) or "tune",
                storage_path=config.resources.storage_path or scratch,
                callbacks=[progress, *watch],
                failure_config=FailureConfig(max_failures=RETRIES),
                checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )
        with _own_interrupts():
            tuner.fit()
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
