"""What a cluster must offer before a search starts on it: each refusal names its remedy.

A machine by itself has its bucket to check, if anything, and pays nothing.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pruning.errors import UserError
from search.config import Config
from search.storage import files
from search.trial import times

PACKAGES = ("slimfront", "torch", "ray")
TIMEOUT = 300.0  # s for all nodes to answer: a first worker imports torch, maybe from a slow disk
COUNT_GPUS = "import torch; print(torch.cuda.device_count())"


@dataclass(frozen=True)
class Facts:
    """One node's answer. gpus: what torch sees, None if not asked; problem: of RUN, empty if none.

    replied: whether the driver sees the file that the node wrote into RUN.
    """

    name: str
    declared_gpus: float
    versions: Mapping[str, str] = field(default_factory=dict)
    gpus: int | None = None
    problem: str = ""
    replied: bool = True


def check_nodes(config: Config, gpus: float) -> None:
    """UserError unless a trial with so many `gpus` could run on each node of the cluster.

    Same versions everywhere, GPUs that torch sees, RUN readable and writable from every node.
    RUN is left as it was.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    here = ray.get_runtime_context().get_node_id()
    # a head without CPUs runs no trial, but the driver that writes RUN may run there
    wanted = [n for n in nodes if n["NodeID"] == here or n["Resources"].get("CPU")]
    judge(config.out, versions(), _ask(config.out, wanted, gpus), gpus)


def check_clock(config: Config, gpus: float) -> None:
    """UserError where the latencies that a search asks for can be measured nowhere."""
    options = config.latency
    if not times.wanted(config.search):
        return
    if options.node is None:
        if options.runtime == "torch:cuda" and not gpus:
            raise UserError(
                "latency.runtime torch:cuda: trials have no GPU here; set resources.gpus_per_trial "
                "to 1, or latency.node to the resource of a node that has one"
            )
        return
    there = ray.cluster_resources()
    if not there.get(options.node):
        raise UserError(
            f"latency.node {options.node}: no node of this Ray offers that resource; start one "
            f"""with ray start --resources='{{"{options.node}": 1}}'"""
        )
    if options.runtime == "torch:cuda" and there.get("GPU", 0) < gpus + 1:
        raise UserError(
            f"latency.node {options.node}: torch:cuda needs a GPU there besides that of a trial"
        )


def check_joined(config: Config) -> None:
    """Inside a worker of a running search, whose node may have joined late: RUN must be shared."""
    run = files.open_uri(config.out)
    if run.is_local and not files.exists(run / "run.json"):
        raise UserError(_not_shared(platform.node(), config.out))


def judge(out: str, expected: Mapping[str, str], answers: Sequence[Facts], gpus: float) -> None:
    """UserError naming the first node that does not do."""
    for facts in answers:
        for name, wanted in expected.items():
            found = facts.versions.get(name, "not installed")
            if found != wanted:
                raise UserError(
                    f"node {facts.name} has {name} {found}, the driver {wanted}; "
                    "install the same version on every node"
                )
        if facts.problem:
            raise UserError(
                f"node {facts.name} cannot use {out} ({facts.problem}); set --out to a folder or "
                "URI that every node may read and write"
            )
        if not facts.replied:
            raise UserError(_not_shared(facts.name, out))
        if gpus and facts.gpus is not None and facts.gpus < facts.declared_gpus:
            raise UserError(
                f"node {facts.name} declares {facts.declared_gpus:g} GPUs, torch sees "
                f"{facts.gpus} there; install a driver and torch with CUDA, or start Ray on it "
                f"with --num-gpus={facts.gpus}"
            )


def versions() -> dict[str, str]:
    """What must be the same on every node."""
    return {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()}


def _ask(out: str, nodes: Sequence[Mapping[str, Any]], gpus: float) -> list[Facts]:
    """Each node reads a file that the driver wrote into RUN, and writes another beside it."""
    run, name = files.open_uri(out), f".probe-{uuid.uuid4().hex}"
    folders = files.missing_folders(run)
    try:
        files.write(run / name / "driver", b"driver")
        pending = []
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(_facts).options(num_cpus=0, scheduling_strategy=there)
            gpus_there = node["Resources"].get("GPU", 0.0)
            pending.append((task.remote(_name(node), out, name, gpus_there, bool(gpus)), node))
        answers = [_answer(ref, node) for ref, node in pending]
        replies = {place.name for place in files.list_files(run / name)}
        return [replace(facts, replied=file in replies) for facts, file in answers]
    finally:
        with contextlib.suppress(OSError):  # nothing could be written
            files.remove_folder(run / name)
        for folder in folders:
            with contextlib.suppress(OSError):  # another run has begun in it
                folder.rmdir()


def _answer(ref: Any, node: Mapping[str, Any]) -> tuple[Facts, str]:
    name = _name(node)
    try:
        answer: tuple[Facts, str] = ray.get(ref, timeout=TIMEOUT)
        return answer
    except GetTimeoutError:
        raise UserError(
            f"node {name} did not answer in {TIMEOUT:g} s; "
            "see its Ray logs, or take it out of the cluster"
        ) from None
    except RayError as error:
        line = next((x for x in reversed(str(error).strip().splitlines()) if x.strip()), "")
        raise UserError(
            f"node {name} cannot run slimfront ({line.strip()}); install it there as on the driver"
        ) from error


def _facts(host: str, out: str, name: str, declared: float, gpus: bool) -> tuple[Facts, str]:
    """The task on a node; also the name of the file that it wrote."""
    file, problem = uuid.uuid4().hex, ""
    try:
        probe = files.open_uri(out) / name
        files.read_bytes(probe / "driver")
        files.write(probe / file, host.encode())
    except FileNotFoundError:
        pass  # no reply: writing would make a folder that is not the driver's
    except (OSError, UserError) as error:
        problem = next(iter(str(error).splitlines()), type(error).__name__)
    seen = _visible_gpus() if gpus and declared else None
    return Facts(host, declared, versions(), seen, problem), file


def _visible_gpus() -> int:
    """Counted by another process: this one, which asked Ray for none, is shown none."""
    env = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        [sys.executable, "-c", COUNT_GPUS], capture_output=True, text=True, env=env, check=False
    )
    return int(done.stdout) if done.returncode == 0 else 0


def _name(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"


def _not_shared(node: str, out: str) -> str:
    return (
        f"node {node} does not see the driver's {out}; with more than one node, set --out to a "
        "folder that all of them mount, or to a URI such as s3://bucket/run"
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
