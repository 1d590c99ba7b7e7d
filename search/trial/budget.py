"""The memory that measuring and repairing may take in a trial's process, and what they say."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from pruning import methods
from pruning.data import Workspace, cores
from pruning.graph import ChannelGraph
from pruning.reconstruction import least_memory, refuse
from search.config import Config

WAIT_S = 10.0  # between two lines of progress
CGROUPS = Path("/sys/fs/cgroup")
MEASURED = ("gain-curve", "cap")  # methods that measure covariances
REFITTED = ("compensate", "feedback")


def workspace(
    config: Config,
    graph: ChannelGraph,
    device: str,
    say: Callable[[str], object] | None = None,
) -> Workspace:
    """`resources.memory_gb`, or this process's share of the machine, at least what is needed."""
    stated = config.resources.memory_gb
    if stated is None:
        stated = max(share(config, device), least_memory(graph)) / 1e9
    return Workspace(stated) if say is None else Workspace(stated, tell=told(say))


def check(config: Config, graph: ChannelGraph, measured: tuple[str, ...]) -> None:
    """UserError where the memory that was stated cannot do for this network; before any work."""
    repair = config.search.repair
    refitted = repair in REFITTED or (
        repair == "auto" and any(methods.get(name).own_repair in REFITTED for name in measured)
    )
    if config.resources.memory_gb is not None and (refitted or set(MEASURED) & set(measured)):
        least = least_memory(graph, repair=refitted)
        instead = "or choose a method that measures no covariances, with repair none, seeds false"
        refuse("this network", least, Workspace(config.resources.memory_gb), instead)


def told(say: Callable[[str], object], wait: float = WAIT_S) -> Callable[[str, int, int], None]:
    """Progress as a line now and then."""
    last = time.monotonic()

    def tell(what: str, done: int, of: int) -> None:
        nonlocal last
        if time.monotonic() - last >= wait:
            last = time.monotonic()
            say(f"{what} {done} of {of}" if of else f"{what} {done}")

    return tell


def share(config: Config, device: str) -> float:
    """Bytes: half of what the trials that may run beside each other have, for one of them."""
    resources = config.resources
    if device.startswith("cuda"):
        total = torch.cuda.get_device_properties(0).total_memory
        return total * (resources.memory_fraction or min(1.0, resources.gpus(1.0))) / 2
    at_a_time = max(1, int(cores() / resources.cpus_per_trial))
    return machine_memory() / 2 / min(at_a_time, resources.max_concurrent or at_a_time)


def machine_memory() -> float:
    """Bytes of this machine, or of the container or job that this process is in."""
    limits = [float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))]
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return limits[0]
    for line in groups:
        _, kind, path = line.split(":", 2)
        top, name = CGROUPS, "memory.max"
        if kind:
            top, name = CGROUPS / "memory", "memory.limit_in_bytes"
        if kind in ("", "memory"):
            inner = top / path.lstrip("/")
            limits += [_limit(folder / name) for folder in (inner, *inner.parents)]
    return min(limits)


def _limit(file: Path) -> float:
    try:
        return float(file.read_text())
    except (OSError, ValueError):  # none here, or "max"
        return float("inf")
