"""The memory of a process that runs trial after trial: what it gives back between them."""

from __future__ import annotations

import ctypes
import os

import torch

from pruning.data import trim_heap

KERNELS, MOST = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", 1024  # kept where nobody says
HEAP = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")  # the user's say
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of malloc.h
MOST_MAPPED = 2**25  # bytes; glibc takes no higher threshold
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


def keep_heap() -> None:
    """Let this process keep what a step of training frees for the next one, until `free`.

    glibc gives large blocks back at once, and each of their pages is a fault in the next step: a
    fifth of a step's time on a CPU. Limits that the user set stay; other allocators have none.
    """
    if not any(os.environ.get(name) for name in HEAP):
        limit = getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)
        limit(TRIM_THRESHOLD, 2**31 - 1)
        limit(MMAP_THRESHOLD, MOST_MAPPED)
