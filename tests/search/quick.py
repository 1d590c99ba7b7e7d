"""A search of seconds, as it is configured, and a console that nobody reads."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from search.config import loader as configuration
from search.config.schema import Config

QUICK = [
    "digits",
    "--trials=7",
    "--base.epochs=4",
    "--finetune.epochs=0.5",
    "--search.final_seeds=2",
    "--search.final_epochs=0.5",
]


def quick(out: Path, *flags: str) -> Config:
    return configuration.load([*QUICK, f"--out={out}", *flags])


def quiet() -> Console:
    return Console(file=io.StringIO())
