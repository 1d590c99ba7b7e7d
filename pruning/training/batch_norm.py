"""Statistics of a network over data."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruning.data import Batches
from pruning.training.evaluation import evaluation_mode


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Batches) -> None:
    """Measure all BN means and variances anew: reset, then the plain average over the batches.

    Each batch counts by its images. The average is that of batch variances, so hand in shuffled
    batches. Modes and momenta are left as they were; without BN nothing is run.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    with evaluation_mode(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.training = True
        try:
            seen = 0
            for x, _ in batches:
                if len(x) == 1 < seen:  # has no variance where maps are 1x1
                    continue
                seen += len(x)
                for norm in norms:
                    # momentum=None is this for equal batches, but makes the device wait
                    norm.momentum = len(x) / seen
                model(x)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
