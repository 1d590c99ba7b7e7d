"""Ray: joining or starting it, and what a trial takes of it."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray

from pruning.errors import UserError
from search import guardian, interrupt, joining
from search.config import Config, LatencyConfig

# the driver is one thread and must not be told apart from a worker by its thread count
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


TRIES = "RAY_gcs_server_port_wait_time_s"  # a second each, to reach a cluster's server
HANDLERS = "_ZN3ray6RayLog27InstallFailureSignalHandlerEPKcb"  # of its C++
CONTEXT = 2**30
"""Bytes of a GPU that CUDA and its libraries take for each process; PyTorch's cap is without."""


@dataclass(frozen=True)
class TrialResources:
    """What one trial takes: CPU cores and GPUs, and how many trials fit at one time."""

    cpus: float
    gpus: float
    slots: int

    @property
    def resources(self) -> dict[str, float]:
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})

    @property
    def options(self) -> dict[str, float]:
        """The same for `ray.remote` functions and actors."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus}


def connect(config: Config, **options: Any) -> None:
    """Join the cluster that is meant, or start Ray on this machine; nothing if already connected.

    Without an address a Ray job joins its own cluster; otherwise a private Ray is started, never
    somebody else's joined. UserError where there is no cluster at the address.
    """
    if ray.is_initialized():
        return
    address = joining.address_of(config)
    defaults: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        defaults["include_dashboard"] = False
    joining.check(address)
    try:
        if address == "local":
            guardian.begin()
        with interrupt.at_once():
            _set_handlers()
        with interrupt.at_once(), interrupt.apart(), _soon(address):
            ray.init(address=address, **(defaults | options))
    except Exception as error:
        if (told := _explained(address, error)) is None:
            raise
        raise told from error


def _set_handlers() -> None:
    """Have Ray take the signals of crashes and SIGTERM now, before they are taken back from it.

    It does so once for a process, in the middle of ray.init, where for a second or more SIGTERM
    would show the user a dump of the stack. Where this Ray calls it otherwise, it does so then.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(ray._raylet.__file__)[HANDLERS](None, True)


def _explained(address: str, error: Exception) -> UserError | None:
    """What went wrong as Ray was joined or started, with the remedy; None where that is unknown."""
    text = str(error).strip()
    # what the server said is in the cause; without a token to give, Ray does not ask it
    if joining.LOCKED.search(f"{type(error).__name__} {text} {error.__cause__}"):
        return joining.locked(address)
    if "timed out during startup" in text:  # a bare Exception, where a machine is too busy
        return UserError(
            "Ray did not start on this machine in time; give the command again once it is less busy"
        )
    if isinstance(error, ConnectionError | RuntimeError | ValueError):
        line = next(iter(text.splitlines()), type(error).__name__)
        return UserError(
            f"no Ray cluster at {address} ({line}); start one or leave out resources.address"
        )
    return None


@contextmanager
def _soon(address: str) -> Iterator[None]:
    """Within, Ray gives up joining after a few tries, not twenty; it starts as ever."""
    if address == "local" or TRIES in os.environ:
        yield
        return
    os.environ[TRIES] = "4"
    try:
        yield
    finally:
        del os.environ[TRIES]


def share(config: Config) -> TrialResources:
    """What a trial takes of the connected cluster. UserError if not even one trial fits.

    On a cluster that was joined, max_concurrent counts even beyond what fits now: the trials that
    wait are what an autoscaler grows by.
    """
    total = ray.cluster_resources()
    gpus = config.resources.gpus(total.get("GPU", 0.0))
    cpus = config.resources.cpus_per_trial
    fits = int(total.get("CPU", 0.0) / cpus) if cpus else config.trials
    if gpus:
        fits = min(fits, int(total.get("GPU", 0.0) / gpus + 1e-6))
    most = config.resources.max_concurrent
    if most and joining.address_of(config) != "local":
        return TrialResources(cpus, gpus, most)
    if fits < 1:
        has = f"{total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs"
        raise UserError(
            f"a trial needs {cpus:g} CPUs and {gpus:g} GPUs, the cluster has {has}; "
            "lower resources.cpus_per_trial or resources.gpus_per_trial, or on a cluster that "
            "is yet to grow set resources.max_concurrent to the trials it may grow to"
        )
    return TrialResources(cpus, gpus, min(fits, most or fits))


def node_of(options: LatencyConfig) -> dict[str, Any]:
    """What `ray.remote` takes to run on the node that latencies are measured on."""
    gpus = 1.0 if options.runtime == "torch:cuda" else 0.0
    return {"num_cpus": 0, "num_gpus": gpus, "resources": {str(options.node): 0.01}}


def worker_device(config: Config) -> str:
    """Inside a worker: its device, with the thread count and memory cap of its share."""
    import torch

    interrupt.hearing()
    torch.set_num_threads(max(1, round(config.resources.cpus_per_trial)))
    if not ray.get_gpu_ids():
        return "cpu"
    if not torch.cuda.is_available():
        raise UserError("a GPU was assigned but torch sees none; install torch with CUDA there")
    fraction = config.resources.memory_fraction or _memory_fraction(
        config.resources.gpus(1.0), torch.cuda.get_device_properties(0).total_memory
    )
    torch.cuda.set_per_process_memory_fraction(fraction, 0)
    return "cuda:0"


def _memory_fraction(gpus: float, total: int) -> float:
    """What a trial's tensors may take of a GPU's memory, so that all that share it find room."""
    return 1.0 if gpus >= 1 else max(gpus - CONTEXT / total, gpus / 2)
