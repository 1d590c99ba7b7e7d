"""Runs on disk without a search: a digits network, rows of a made-up surface, real files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from pruning.graph.surgery import cut
from pruning.models import checkpoint
from pruning.models.checkpoint import ModelInfo
from pruning.models.registry import resolve
from search.backend.final import Member
from search.config.schema import Config
from search.frontier import points
from search.pareto import Metric, front
from search.storage import files, record
from search.storage.ledger import Ledger
from search.storage.row import Row, Status, arch_hash, trial_id
from search.trial.final_training import Training
from tests.search.spaces import accuracy, network

GRAPH, COST, LATTICE = network("digits")
BASE_TOP1 = 0.95


def make_rows(count: int, seed: int = 0, methods: Iterable[str] = ("uniform", "peel")) -> list[Row]:
    """Complete trials: the base model first, then random widths and parameters."""
    rng = np.random.default_rng(seed)
    names = list(methods)
    rows = []
    for number in range(count):
        ratio = 1.0 if number == 0 else float(np.exp(rng.uniform(np.log(0.1), 0)))
        offsets = rng.uniform(-0.5, 0.5, len(GRAPH.groups)) * (number > 0)
        widths = LATTICE.snap(ratio * (1 + offsets) * GRAPH.widths)
        method = names[int(rng.integers(len(names)))]
        top1 = accuracy(GRAPH, widths) + (0.01 if method == names[-1] else 0.0)
        params = {f"o.{g.name}": float(o) for g, o in zip(GRAPH.groups, offsets, strict=True)}
        source = "peel one-shot 30%" if number in (2, 3) else "sampler"
        digest = arch_hash(method, widths.tolist(), {"number": number})
        rows.append(
            Row(
                trial_id=trial_id(number, digest),
                arch_hash=digest,
                method=method,
                proposal={
                    "kind": "widths",
                    "source": source,
                    "params": params | {"ratio": ratio, "method": method},
                    "scalars": {},
                    "asked": 1,
                },
                widths=tuple(widths.tolist()),
                macs=int(COST.macs(widths)),
                params=int(COST.params(widths)),
                score_pruned=0.1,
                score_repaired=0.5 * top1,
                score_val=top1,
                curve=(0.9 * top1, top1),
                epochs=2.0,
                status="complete",
                wall_s=5.0,
                device="cpu",
                checkpoint="checkpoints/x.safetensors",
                started_at=f"2026-01-02T{number // 360:02d}:{number // 6 % 60:02d}:00+00:00",
            )
        )
    return rows


def failed(row: Row, reason: str, status: Status = "failed") -> Row:
    return replace(row, status=status, reason=reason, score_val=None, checkpoint="")


def make_run(folder: Path, rows: Iterable[Row], status: str = "complete") -> str:
    """run.json, base.safetensors and trials; of a complete run also the frontier and its models."""
    rows, run = list(rows), files.open_uri(folder)
    base = {"macs": COST.base_macs, "params": COST.base_params, "model": "digits"}
    base |= {"score_val": BASE_TOP1, "score_test": BASE_TOP1 - 0.01}
    base |= {"groups": [group.name for group in GRAPH.groups]}
    info = ModelInfo(
        model="digits",
        args={"num_classes": 10, "in_channels": 1},
        input_shape=(1, 8, 8),
        classes=10,
        mean=(0.3,),
        std=(0.4,),
        widths={group.name: group.channels for group in GRAPH.groups},
        digest=GRAPH.digest(),
    )
    model = resolve("digits")
    checkpoint.save(model, folder / "base.safetensors", info)
    written = record.update(run, record.create(Config(), base, Metric(chance=0.1)), status=status)
    for row in rows:
        Ledger(folder).write(row)
    if status != "complete":
        return str(folder)
    done = [row for row in rows if row.status == "complete"]
    found = members(folder, [done[i] for i in front.front(front.points_of(done))])
    for member in found:
        kept = {group.name: w for group, w in zip(GRAPH.groups, member.row.widths, strict=True)}
        slim = cut(model, GRAPH, tuple(np.arange(w) for w in member.row.widths))
        checkpoint.save(slim, member.best.checkpoint, replace(info, widths=kept))
    points.export(str(folder), found, rows, written)
    return str(folder)


def members(folder: Path, rows: Iterable[Row]) -> list[Member]:
    """Rows of the frontier with two final trainings each, their weights in `checkpoints`."""
    found = []
    for row in rows:
        place = str(folder / "checkpoints" / f"{row.trial_id}.safetensors")
        top1 = row.score_val or 0.0
        trainings = [Training(k, top1, top1 - 0.01 * k, 2.0, 1.0, place) for k in range(2)]
        found.append(Member(row, tuple(trainings)))
    return found
