"""How a network is trained, as options with their units and defaults. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pruning.training import Recipe


@dataclass(frozen=True)
class RecipeConfig:
    """Training: SGD with Nesterov momentum and a cosine learning rate down to zero.

    The fields of pruning.training.loop.Recipe, whose module needs torch.

    Args:
        epochs: Passes over the training images; may be a fraction (0.5 is half a pass).
        batch: Images per step.
        lr: Highest learning rate, reached after the warm-up.
        momentum: Nesterov momentum (0 to below 1).
        weight_decay: L2 penalty on the weights, added to the gradient.
        decay_all: Take biases and BN parameters into the penalty too (true or false).
        label_smoothing: Share of the label spread over all classes (0 to below 1).
        warmup: Share of all steps in which the learning rate rises (0 to 1).
        augment: Random changes of the images: none, flip, crop-flip (by up to 4 pixels), shift (by
            up to 1 pixel), or auto (what suits the data).
        distill: Share of the loss that asks for the base model's outputs (0 to 1); 0 is off.
        temperature: Softening of both outputs in that part of the loss.
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
    temperature: float = 4.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    cuda_graph: bool = True

    def recipe(self) -> Recipe:
        """The same for pruning.training; raises UserError where a value is out of its range."""
        from pruning.training import Recipe

        return Recipe(**vars(self))
