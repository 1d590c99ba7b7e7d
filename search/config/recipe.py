"""How a network is trained, as options with their units and defaults. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pruning.training import Recipe


LATER = ("optimizer", "clip", "ema", "accumulate", "distill_maps")
"""Options that came after the first runs."""


@dataclass(frozen=True)
class RecipeConfig:
    """Training by SGD or AdamW with a cosine learning rate down to zero.

    The fields of pruning.training.loop.Recipe, whose module needs torch.

    Args:
        epochs: Passes over the training images; may be a fraction (0.5 is half a pass).
        batch: Images per step.
        lr: Highest learning rate, reached after the warm-up.
        momentum: Nesterov momentum of SGD (0 to below 1).
        weight_decay: SGD: L2 penalty on the weights, added to the gradient; AdamW: share of the
            learning rate by which they shrink in each step.
        decay_all: Take biases and BN parameters into the penalty too (true or false).
        label_smoothing: Share of the label spread over all classes (0 to below 1).
        warmup: Share of all steps in which the learning rate rises (0 to 1).
        augment: Random changes of the images: none, flip, crop-flip (by up to 4 pixels), shift (by
            up to 1 pixel), or auto (what suits the data).
        distill: Share of the loss that asks for the base model's outputs (0 to 1); 0 is off.
        distill_maps: Feature maps that the base model asks for as well: none, modules by patterns
            ("backbone.*,neck"), or auto (the last of each resolution); not for classification.
        temperature: Softening of both outputs in that part of the loss.
        optimizer: sgd, or adamw (which wants learning rates of about 0.001).
        clip: Longest gradient, by its norm over all weights; 0 is no limit.
        ema: Decay of a moving average of the weights, which is what is scored and kept (0.99); 0 is
            off.
        accumulate: Batches whose gradients make one step.
        precision: fp32, bf16 (autocast), or auto (bf16 where the processor computes in it).
        cuda_graph: Capture a step on a GPU and replay it (true or false).
    """

    epochs: float = 1.0
    batch: int = 128
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_all: bool = True
    label_smoothing: float = 0.0
    warmup: float = 0.0
    augment: Literal["auto", "none", "flip", "crop-flip", "shift"] = "auto"
    distill: float = 0.0
    distill_maps: str = "none"
    temperature: float = 4.0
    optimizer: Literal["sgd", "adamw"] = "sgd"
    clip: float = 0.0
    ema: float = 0.0
    accumulate: int = 1
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    cuda_graph: bool = True

    def told(self) -> dict[str, Any]:
        """What tells trainings apart, for hashes: an option that came later counts where it is set.

        So the networks of older runs keep their names.
        """
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in LATER or getattr(self, f.name) != f.default
        }

    def recipe(self) -> Recipe:
        """The same for pruning.training; raises UserError where a value is out of its range."""
        from pruning.training import Recipe

        return Recipe(**vars(self))
