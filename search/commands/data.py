"""`slimfront data pack`: a set of photographs encoded once more, small, for fast training."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from pruning.errors import UserError
from search.config import Parser

LOG_EVERY = 30.0  # seconds between lines where there is no terminal


@dataclass(frozen=True)
class PackOptions:
    """How to pack.

    Args:
        size: Shorter side of the packed images, in pixels; smaller JPEGs stay as they are.
        quality: Of the JPEGs that are made (1 to 100).
        shard_mb: Size of a Parquet file, about, in MB.
    """

    size: int = 256
    quality: int = 90
    shard_mb: int = 256


def run(argv: Sequence[str], prog: str) -> None:
    """The verb `pack`; prints what was packed, or JSON."""
    verbs = "pack"
    if not argv or argv[0] not in (verbs, "-h", "--help"):
        got = f"{argv[0]!r} is none" if argv else "none was given"
        raise UserError(f"data needs a verb, {got}; write {prog} pack SOURCE TARGET")
    parser = Parser(
        prog=f"{prog} pack",
        usage=f"{prog} pack SOURCE TARGET [--size 256] [--quality 90] [--json]",
        description=(
            "Encode a data set once more, small: shorter sides of 256 pixels, JPEG, in Parquet "
            "files that every later run decodes at a fraction of the cost. All splits of SOURCE "
            "are packed: train-*.parquet and the like, or folders train and val with a folder for "
            "each class. The same command again goes on where it ended. Images that cannot be "
            "read are named and left out; at the end counts and targets are read back and compared."
        ),
    )
    parser.add_argument("source", metavar="SOURCE", help="folder or URI (s3://…) of the images")
    parser.add_argument("target", metavar="TARGET", help="folder or URI for the packed images")
    parser.add_dataclass(PackOptions)
    parser.add_argument("--json", action="store_true", help="print JSON")
    found = parser.read(argv[1:] if argv[0] == verbs else argv)
    options = {f.name: found[f.name] for f in dataclasses.fields(PackOptions)}
    _pack(found["source"], found["target"], options, found["json"])


def _pack(source: str, target: str, options: dict[str, int], as_json: bool) -> None:
    from search.data import packing

    began = time.monotonic()
    with _Bar(Console(stderr=True)) as bar:
        packed = packing.pack(source, target, packing.Settings(**options), bar.report, bar.begin)
    if as_json:
        seconds = {"seconds": round(time.monotonic() - began, 1)}
        print(json.dumps(dataclasses.asdict(packed) | seconds, indent=1))
        return
    print(
        f"{packed.images:,} images in {packed.shards} files, {packed.bytes / 1e9:.2f} GB, in "
        f"{target}; counts and targets agree with {source}"
    )
    if packed.broken:
        first, reason = next(iter(packed.broken.items()))
        print(f"{len(packed.broken)} could not be read and are left out: {first} ({reason}), …")
    print(f"use it with --data.name parquet --data.root {target}")


class _Bar:
    """Images done of each split: a bar on a terminal, a line now and then in a log."""

    def __init__(self, console: Console) -> None:
        self.console, self.said = console, time.monotonic()
        self.tasks: dict[str, TaskID] = {}
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> _Bar:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def begin(self, split: str, images: int) -> None:
        self.tasks[split] = self.bar.add_task(split, total=images, rate="")

    def report(self, split: str, done: int) -> None:
        task = self.bar.tasks[self.tasks[split]]
        speed = f"{task.speed:,.0f} images/s" if task.speed else ""
        self.bar.update(task.id, advance=done, rate=speed)
        if not self.console.is_terminal and time.monotonic() - self.said >= LOG_EVERY:
            self.said = time.monotonic()
            self.console.print(f"{split}: {task.completed:,.0f} of {task.total:,.0f} images")
