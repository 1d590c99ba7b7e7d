"""What a worker makes of a training that fails: half the batch, a reason, or its own end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from pruning.errors import UserError
from pruning.training import Recipe
from search.tasks import TaskError
from search.trial.memory import free

Report = dict[str, Any]
Attempt = Callable[[Recipe, str], Iterator[Report]]
"""A training: (its recipe, what is to be said of it) → reports, the last with a `status`."""


def guarded(attempt: Attempt, recipe: Recipe, device: str, *, halves: bool) -> Iterator[Report]:
    """Reports of an attempt, and of a second with half the batch where memory ran out.

    halves: whether the task can take half the batch. What else a network does wrong is a report
    with status failed and the reason. An error of the GPU itself is raised.
    """
    try:
        try:
            yield from attempt(recipe, "")
            return
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error) or not halves:
                raise
        # not sooner: the error holds the frames of the attempt, and they what it has on the device
        free(device)
        half = replace(recipe, batch=max(1, recipe.batch // 2))
        yield from attempt(
            half, f"out of memory; ran with batch {half.batch} instead of {recipe.batch}"
        )
        return
    except UserError:
        raise  # a disk that is full or the like: the next trial would meet it too
    except TaskError as error:
        failure = str(error)
    except Exception as error:
        if isinstance(error, torch.AcceleratorError) and not out_of_memory(error):
            raise  # what follows one on a GPU fails as well: this process is of no more use
        first = next(iter(str(error).splitlines()), "")
        failure = f"{type(error).__name__}: {first}"
    free(device)
    yield {"status": "failed", "reason": failure}


def out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        sign in str(error)
        # ALLOC_FAILED: of cuBLAS and cuDNN
        for sign in ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    )
