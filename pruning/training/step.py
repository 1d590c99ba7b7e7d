"""One training step, as it is or captured as a CUDA graph.

Small networks are bound by the launching of kernels: replaying a whole captured step (forward,
loss, backward, update) trains ResNet-56 about twice as fast.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.training.optimizer import Update, tensors_of

if TYPE_CHECKING:
    from pruning.training.recipe import Recipe

REHEARSALS = 3
"""Steps before a capture: libraries load, algorithms are chosen, momentum is allocated."""


class Step:
    """Forward, loss, backward and update for one batch; runs as it is or captured.

    Losses add up in `total`, on the device.
    """

    def __init__(
        self, model: nn.Module, teacher: nn.Module | None, recipe: Recipe, device: torch.device
    ) -> None:
        self.model, self.teacher, self.recipe, self.device = model, teacher, recipe, device
        self.bf16 = wants_bf16(recipe.precision, device)
        self.total = torch.zeros((), device=device)
        self.update = Update(model, recipe, device)
        self.batches = 0

    def __call__(self, x: Tensor, y: Tensor) -> None:
        many = self.recipe.accumulate
        if self.batches % many == 0:
            self.update.clear()
        self.batches += 1
        loss = self.loss(x, y)
        (loss / many if many > 1 else loss).backward()  # type: ignore[no-untyped-call]
        if self.batches % many == 0:
            self.update()
        self.total += loss.detach()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        recipe = self.recipe
        logits = self._logits(self.model, x)
        loss = F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            target = F.log_softmax(self._logits(self.teacher, x) / recipe.temperature, 1)
        ours = F.log_softmax(logits / recipe.temperature, 1)
        # Hinton et al., 2015: T² keeps the gradient's size independent of T
        taught = F.kl_div(ours, target, reduction="batchmean", log_target=True)
        return (1 - recipe.distill) * loss + recipe.distill * recipe.temperature**2 * taught

    def mean_loss(self, steps: int) -> float:
        """Mean loss of the steps since the last call."""
        loss = self.total.item() / steps
        self.total.zero_()
        return loss

    def rehearse(self, x: Tensor, y: Tensor, steps: int = REHEARSALS) -> None:
        """Take steps, then undo them in place, also where one raises.

        Weights, buffers and momentum are as new.
        """
        state = tensors_of(self.model)
        before = [t.detach().clone() for t in state]
        try:
            for _ in range(steps):
                self(x, y)
        finally:
            with torch.no_grad():
                for tensor, old in zip(state, before, strict=True):
                    tensor.copy_(old)
                self.total.zero_()
            # zero momentum makes the next step equal to a first one
            self.update.forget()
            self.batches = 0

    def _logits(self, network: nn.Module, x: Tensor) -> Tensor:
        # no cache of cast weights: a capture must record the casts that its replays need
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=False
        ):
            logits: Tensor = network(x)
        return logits.float()


def capture(step: Step, shape: tuple[int, ...], seed: int) -> Callable[[Tensor, Tensor], None]:
    """The step as a CUDA graph over static inputs; the step itself where that cannot be."""
    several = step.recipe.accumulate > 1  # batches differ in what they do
    if step.device.type != "cuda" or not step.recipe.cuda_graph or several:
        return step
    x = torch.zeros(shape, device=step.device).contiguous(memory_format=torch.channels_last)
    y = torch.zeros(shape[0], dtype=torch.int64, device=step.device)
    with torch.cuda.device(step.device), seeded(seed, step.device), benchmarking(step.device):
        side = _side_stream(step.device)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step.rehearse(x, y)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            # a capture that fails leaves torch 2.11's allocator and generator unusable (see its
            # #180395), so a step that waits for the device is found out before
            with torch.cuda.stream(side), _waiting_raises():
                step.rehearse(x, y, steps=1)
            # the outer context gives the stream back even where ending a capture fails;
            # thread_local: other threads (a loader that pins memory) may go on meanwhile
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"),
            ):
                step(x, y)
        except RuntimeError as error:
            torch.cuda.synchronize()
            cause = error.__context__ or error  # ending the capture raises once more
            reason = str(cause).strip().split("\n")[0]
            warnings.warn(f"training without a CUDA graph, slower: {reason}", stacklevel=2)
            return step

    def replay(images: Tensor, labels: Tensor) -> None:
        x.copy_(images)
        y.copy_(labels)
        graph.replay()

    return replay


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all captures: cuBLAS keeps a workspace for every stream that it ever ran on."""
    return torch.cuda.Stream(device)


@contextmanager
def _waiting_raises() -> Iterator[None]:
    """Within, an operation that makes the host wait for the device is a RuntimeError."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def wants_bf16(precision: str, device: torch.device) -> bool:
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # measured: ResNet-20 trains 1.5 to 2 times faster where a CPU multiplies bf16 itself
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout and the like draw from `seed`; the caller's random state is untouched."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def benchmarking(device: torch.device) -> Iterator[None]:
    """Let cuDNN choose by measurement: shapes are static here."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
