"""Devices by name, as results state what they were measured on."""

from __future__ import annotations

import platform

import torch

from pruning.errors import UserError


def device_of(name: str) -> str:
    """The device that "auto" means here: the GPU if there is one."""
    there = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if there else "cpu"
    if name.startswith("cuda") and not there:
        raise UserError("torch sees no GPU here; use --device cpu, or install torch with CUDA")
    return name


def describe_device(device: str) -> str:
    """ "NVIDIA H200", or "x86_64 CPU, 1 thread"."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' * (threads != 1)}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = (line.split(":", 1)[1] for line in lines if line.startswith("model name"))
            return next(names).strip()
    except (OSError, StopIteration):
        return f"{platform.machine()} CPU"
