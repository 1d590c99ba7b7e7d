#!/usr/bin/env python3
"""How far channel tracing reaches: networks of torchvision and timm, cut and compared.

Each network runs in processes of its own with a limit on CPU seconds and memory, forked from one
that has imported everything. For each: whether the cut network is exact, whether the costs are
torch's own, one training step, save and load, the least MACs, whether tracing changed anything, and
torch-pruning with its defaults beside it. Results are JSON lines in --out; networks that are in it
already are left out, so a sweep can be run in parts. --table prints them as Markdown. Seconds are
CPU seconds of one thread, so that a busy machine changes them little.

python scripts/bench/reach.py --out reach.jsonl [--only PATTERN] [--limit 120] [--minutes 10]
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from reach_checks import ours, theirs
from reach_networks import in_turn, made, parameters, timm_names, torchvision_names
from reach_table import tables

import pruning
from pruning.errors import UserError


def in_process(job: Callable[[], dict[str, Any]], limit: float, memory: int) -> dict[str, Any]:
    """The job's result from a process of its own; {"error": …} if it failed or took too long.

    limit: CPU seconds, its children's not counted.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        used = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (round(used + limit), round(used + limit) + 5))
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        try:
            found = job()
        except UserError as error:
            found = {"error": f"UserError: {error}"}
        except BaseException as error:
            found = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
        with os.fdopen(write, "wb") as pipe:
            pipe.write(json.dumps(found).encode())
        os._exit(0)
    os.close(write)
    data, late = b"", time.monotonic() + 10 * limit
    while part := select.select([read], [], [], max(0.0, late - time.monotonic()))[0]:
        part = os.read(read, 1 << 16)
        if not part:
            break
        data += part
    else:
        os.kill(child, signal.SIGKILL)
        data = b""
    os.close(read)
    _, status = os.waitpid(child, 0)
    if data:
        return json.loads(data)
    died = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    late_too = died in (signal.SIGXCPU, signal.SIGKILL)
    return {"error": "timeout" if late_too else f"died of signal {died}"}


def one(spec: str, options: argparse.Namespace) -> dict[str, Any]:
    """The row of one network: made once, tried by us and by torch-pruning in a process each."""

    memory = round(options.memory * 2**30)

    def network() -> dict[str, Any]:
        try:
            size = parameters(spec)
        except RuntimeError as error:  # made, as it cannot be counted without
            if "allocate" not in str(error):
                raise
            return {"skipped": "more than the memory of a process", "parameters": memory // 4}
        if size > options.most * 1e6:
            return {"skipped": f"{size / 1e6:.0f} M parameters", "parameters": size}
        model, example = made(spec)
        first = example if isinstance(example[0], int) else example[0].shape[1:]
        row = {"input": list(first), "parameters": size}
        if options.peer != "only":
            row |= in_process(lambda: ours(model, example), options.limit, memory)
        if options.peer != "no":
            peer = in_process(lambda: theirs(model, example), options.peer_limit, memory)
            error = peer.pop("error", None)
            late = error == "timeout" or (error or "").startswith("MemoryError")
            row |= peer if error is None else {"peer": "timeout" if late else "crash"}
            if error is not None:
                row["peer_error"] = error[:120]
        return row

    return in_process(network, options.limit, memory)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "reach.jsonl")
    parser.add_argument("--only", default="*", help="glob patterns of names, commas between")
    parser.add_argument("--again", action="store_true", help="measure those of --only anew")
    parser.add_argument("--each", type=int, default=3, help="networks of each timm family")
    parser.add_argument("--limit", type=float, default=90, help="CPU seconds of a network")
    parser.add_argument("--peer-limit", type=float, default=20, help="the same for torch-pruning")
    parser.add_argument("--memory", type=float, default=3, help="GiB of a network's process")
    parser.add_argument("--most", type=float, default=150, help="parameters in millions")
    parser.add_argument("--minutes", type=float, default=1e9, help="start none after so long")
    parser.add_argument(
        "--peer",
        choices=("yes", "no", "only"),
        default="yes",
        help="with torch-pruning, without, or that alone where a line lacks it",
    )
    parser.add_argument("--table", action="store_true", help="print what --out holds")
    return parser.parse_args()


def revision() -> str:
    """The commit that is measured."""
    line = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(line, capture_output=True, text=True).stdout.strip()


def main() -> None:
    options = arguments()
    held = options.out.read_text().splitlines() if options.out.exists() else []
    rows = {row["name"]: row for row in map(json.loads, held)}  # the last of a name counts
    if options.table:
        print(tables(list(rows.values())))
        return
    torch.set_num_threads(1)
    import timm
    import torch_pruning
    import torchvision

    for name in pruning.__all__:  # type: ignore[attr-defined]
        getattr(pruning, name)  # loaded before processes fork
    # imports that torch puts off until the meta device is met
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2)).to("meta")
    net.eval()(torch.zeros(2, 1, 4, 4, device="meta"))
    versions = {m.__name__: m.__version__ for m in (torch, torchvision, timm)}
    about = {"revision": revision(), **versions, "cpu": os.uname().machine}
    print(json.dumps(about), torch_pruning.__name__, file=sys.stderr)
    began = time.monotonic()
    patterns = options.only.split(",")
    for spec, kind in in_turn(torchvision_names(), timm_names(options.each)):
        wanted = any(fnmatch.fnmatch(spec, pattern) for pattern in patterns)
        known = rows.get(spec, {})
        small = known.get("parameters", 0) <= options.most * 1e6
        done = bool(known) and not ("skipped" in known and small)
        if options.peer == "only":
            done = "peer" in known or "skipped" in known or not known
        if not wanted or (done and not options.again):
            continue
        if time.monotonic() - began > 60 * options.minutes:
            break
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        row = {"name": spec, "kind": kind, "revision": about["revision"], **one(spec, options)}
        if options.peer == "only":
            row = {**known, **{key: row[key] for key in row if key.startswith("peer")}}
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
        row["cpu_s"] = round(spent, 2)
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), file=sys.stderr)


if __name__ == "__main__":
    main()
