"""A fuzz of the front: no traceback, one line, nothing written outside RUN, whatever comes in.

Issue 14: 500 cases in CI, 10,000 in the nightly ones. SLIMFRONT_FUZZ=SEED:COUNT runs others.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruning.errors import UserError
from search.cli import main
from tests.search.fuzz import cases
from tests.search.fuzz.cases import Case

SEED, FEW, MANY = 14, 500, 10_000
ENOUGH = "the fuzz goes no further"


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What takes long stands still where it would begin: Ray, training, ONNX, charts."""
    from pruning.models import resolve, weights
    from search.backend import cluster
    from search.commands import profiling, prune
    from search.data import splits
    from search.deploy import latencies, onnx
    from search.report import page

    def stop(*args: Any, **options: Any) -> Any:
        raise UserError(ENOUGH)

    def load(settings: Any, *args: Any, **options: Any) -> Any:
        """As much of a pruning as reads what the user gave."""
        splits.load(settings.data, settings.seed)
        if settings.model.weights is not None and not settings.model.weights.startswith("torchv"):
            weights.load_weights(resolve("digits"), settings.model.weights)
        if np.random.default_rng(len(str(settings))).random() < 0.05:
            raise KeyboardInterrupt
        raise UserError(ENOUGH)

    monkeypatch.setenv("SLIMFRONT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cluster, "connect", stop)
    monkeypatch.setattr(prune, "prune", load)
    monkeypatch.setattr(profiling, "profile", stop)
    monkeypatch.setattr(onnx, "deploy", stop)
    monkeypatch.setattr(latencies, "measure", stop)
    monkeypatch.setattr(page, "get_plotlyjs", str, raising=False)


def state(folder: Path, free: tuple[Path, ...]) -> dict[str, bytes]:
    """Every file that is not free to change, and its bytes."""
    return {
        str(path): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
        if not any(path == root or root in path.parents for root in free)
    }


def run(case: Case) -> tuple[int | str, str]:
    """Exit code, or a traceback, and what was said on stderr."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(case.folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code: int | str = main(case.argv)
        except BaseException:
            code = traceback.format_exc()
    return code, err.getvalue()


def trouble(case: Case, outcomes: Counter[str]) -> Iterator[str]:
    """What is wrong with a case, run in its folder; `outcomes` counts how it ended."""
    trials = case.folder / "run" / "trials"
    kept = {f.name: f.read_bytes() for f in trials.glob("*.json") if f.is_file()}
    before = state(case.folder, case.free)
    code, said = run(case)
    end = "went on" if ENOUGH in said else f"exit {code}" if isinstance(code, int) else "raised"
    outcomes.update([case.argv[0], end])
    if code not in (0, 2, 130):
        yield f"exit {str(code)[-1500:]}"
    lines = said.splitlines()
    if code == 2 and (len([x for x in lines if x.startswith("slimfront: ")]) != 1):
        yield f"{len(lines)} lines: {said[:600]}"
    if code in (2, 130) and lines and not lines[-1].startswith("slimfront: "):
        yield f"last line: {lines[-1][:300]}"
    if "Traceback" in said:
        yield f"a traceback on stderr: {said[-800:]}"
    if state(case.folder, case.free) != before:
        after = state(case.folder, case.free)
        yield f"changed: {[p for p in {*before, *after} if before.get(p) != after.get(p)]}"
    if case.argv[0] != "search":
        now = {f.name: f.read_bytes() for f in trials.glob("*.json") if f.is_file()}
        if now != kept:
            yield "a reading command changed trials"


def fuzz(seed: int, count: int, folder: Path) -> Counter[str]:
    """Run `count` cases; their outcomes counted. Fails with the first twenty that went wrong."""
    given = folder / "given"
    given.mkdir()
    cases.templates(given)
    outcomes: Counter[str] = Counter()
    wrong = []
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        case = cases.make(rng, given, folder / f"case{number}")
        found = list(trouble(case, outcomes))
        if found:
            words = [word[:80] for word in case.argv]
            wrong.append("\n  ".join([f"case {seed}:{number} {words}", *found]))
        shutil.rmtree(case.folder)
    print(f"{count} cases of seed {seed}, {len(wrong)} went wrong: {dict(outcomes)}")
    assert not wrong, f"{len(wrong)} of {count} went wrong\n" + "\n".join(wrong[:20])
    return outcomes


@pytest.mark.usefixtures("light")
def test_the_front_survives_a_fuzz(tmp_path: Path) -> None:
    seed, _, count = os.environ.get("SLIMFRONT_FUZZ", f"{SEED}:{FEW}").partition(":")
    outcomes = fuzz(int(seed), int(count), tmp_path)
    assert len(outcomes) >= min(8, int(count))


@pytest.mark.nightly
@pytest.mark.usefixtures("light")
def test_the_front_survives_a_long_fuzz(tmp_path: Path) -> None:
    """Ten thousand cases take a quarter of an hour, or an hour and more on a busy machine."""
    fuzz(SEED + 1, MANY, tmp_path)
