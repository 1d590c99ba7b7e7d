"""The memory of a process that runs trial after trial: what it gives back between them."""

from __future__ import annotations

import os

import torch

from pruning.data import trim_heap

KERNELS, MOST = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", 1024  # kept where nobody says
PER_LAYER = 16  # forward, two backward and reorders, at the batch sizes of training and of scoring


def free(device: str) -> None:
    """Return to the device and to the system what no tensor needs any more."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    trim_heap()


def keep_kernels(layers: int) -> None:
    """Let this process keep compiled CPU kernels for a network of so many layers, no more.

    oneDNN keeps the last of them, most of them of trials that never come again. It reads the limit
    at its first use; one that the user set stays.
    """
    os.environ.setdefault(KERNELS, str(min(PER_LAYER * max(layers, PER_LAYER), MOST)))
