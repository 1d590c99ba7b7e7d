"""What a network is measured on: inputs alone, and batches with a loss where one is needed."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from pruning.data.calls import Again, images_in
from pruning.errors import UserError

Loss = Callable[[Any, Any], Tensor]
"""loss(model, batch) → the mean loss of a batch, a tensor of one number."""


def cross_entropy(model: Any, batch: Any) -> Tensor:
    """Mean cross-entropy of a classifier on (images, labels): the loss where none is named."""
    x, y = batch
    return F.cross_entropy(model(x).float(), y)


def _silent(what: str, done: int, of: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Workspace:
    """What measuring and repairing may take, and whom they tell how far they are.

    memory_gb: memory over that of the networks and of the images; what does not fit is put into a
    file in `folder` (None: the system's for temporary files) or done in several passes, to the same
    numbers. None: no limit. tell(what, done, of): called after each step.
    """

    memory_gb: float | None = None
    folder: str | None = None
    tell: Callable[[str, int, int], None] = _silent

    @property
    def bytes(self) -> float:
        return math.inf if self.memory_gb is None else self.memory_gb * 1e9

    def less(self, taken: float) -> Workspace:
        """What is left beside so many bytes."""
        if self.memory_gb is None:
            return self
        return replace(self, memory_gb=max(0.0, self.bytes - taken) / 1e9)

    def step(self, what: str, done: int, of: int) -> None:
        """Tell how far it is; with a limit, what earlier steps left goes back to the system."""
        self.tell(what, done, of)
        if self.memory_gb is not None:
            trim_heap()


def trim_heap() -> None:
    """Return free memory to the system: glibc's heap keeps the holes between what is alive."""
    if trim := _trimmer():
        trim(0)


@cache
def _trimmer() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


@dataclass(frozen=True)
class Samples:
    """inputs: batches of what the network is called with; batches: what `loss` takes.

    Both can be walked again. training: `loss` needs the network in training mode, as those of
    detectors do; batch norm and dropout are held in evaluation mode all the same. workspace: what
    may be taken while they are walked.
    """

    inputs: Iterable[Any]
    batches: Iterable[Any]
    loss: Loss = cross_entropy
    training: bool = False
    workspace: Workspace = field(default_factory=Workspace)

    @classmethod
    def of(cls, batches: Iterable[Any] | Samples) -> Samples:
        """Samples as they are; batches (images, labels) of a classifier as samples."""
        if isinstance(batches, Samples):
            return batches
        return cls(Again(batches, _images), batches)

    @property
    def classifier(self) -> bool:
        """Whether batches are (images, labels), which can be cut up and put together anew."""
        return self.loss is cross_entropy

    def with_batches(self, batches: Sequence[Any]) -> Samples:
        """The same loss on other batches; of a classifier's, the inputs are theirs too."""
        inputs = Samples.of(batches).inputs if self.classifier else self.inputs
        return replace(self, inputs=inputs, batches=batches)


def some(samples: Samples, images: int) -> Samples:
    """The first batches, up to about so many images, as a list; at least one. UserError if none."""
    taken: list[Any] = []
    seen = 0
    for batch in samples.batches:
        taken.append(batch)
        seen += max(1, images_in(batch))
        if seen >= images:
            break
    if not taken:
        raise UserError("no batches to measure the loss on; hand in at least one")
    return samples.with_batches(taken)


def _images(batch: Any) -> Any:
    return batch[0]
