"""Time left: right within a factor of 1.5 from a tenth of the run on (finding 8.10)."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from search.backend import progress as estimate
from search.config.schema import Config
from search.pareto import front
from search.storage import files, live
from search.storage.row import Row
from search.trial import final_training
from tests.conftest import REPOSITORY
from tests.search.runs import make_rows


def timeline(trials: int, seed: int, repair_s: float, epoch_s: float) -> list[Row]:
    """The base model in no time, then networks whose times grow with their MACs, with noise."""
    rng, rows = np.random.default_rng(seed), make_rows(trials, seed)
    most = max(row.macs for row in rows)
    found = [replace(rows[0], epochs=0.0, wall_s=0.005, finetune_s=0.0)]
    for row in rows[1:]:
        noise = float(np.exp(rng.normal(0, 0.2)))
        train = row.epochs * epoch_s * (0.4 + 0.6 * row.macs / most) * noise
        found.append(replace(row, prune_s=repair_s, finetune_s=train, wall_s=repair_s + train))
    return found


@pytest.mark.parametrize("slots", [1, 2, 8])
@pytest.mark.parametrize(("seeds", "final_epochs"), [(0, None), (1, None), (3, None), (3, 8.0)])
@pytest.mark.parametrize("trials", [40, 100, 200])
@pytest.mark.parametrize("cold", [0.0, 30.0])
@pytest.mark.parametrize("parents", [True, False])
def test_finding_8_10_time_left_comes_true(
    slots: int, seeds: int, final_epochs: float | None, trials: int, cold: float, parents: bool
) -> None:
    """cold: seconds more that a worker's first training takes, and that workers take to be there.

    Once each worker has ended two.
    """
    base = Config()
    search = replace(base.search, final_seeds=seeds, final_epochs=final_epochs, parents=parents)
    recipe = replace(base.finetune, epochs=2.0)
    config = replace(base, trials=trials, search=search, finetune=recipe)
    rows = timeline(trials, seed=trials, repair_s=1.0, epoch_s=3.0)
    members = [rows[i] for i in front.front(front.points_of(rows))][: search.final_points]
    often = (min(final_training.ALL, seeds) + seeds) / 2
    ratio = (final_epochs or 2.0) / 2.0
    finals = sum((not parents) * row.prune_s + row.finetune_s * ratio for row in members) * often
    rows[1 : slots + 1] = [replace(r, wall_s=r.wall_s + cold) for r in rows[1 : slots + 1]]
    for done in (trials // 10, trials // 3, trials // 2):
        if cold and done < 2 * slots:
            continue
        truth = (sum(row.wall_s for row in rows[done:]) + finals) / slots
        truth += 2 * cold if seeds else 0.0
        found = estimate.seconds_left(rows[:done], cold, config, slots)
        assert found is not None
        assert truth / 1.5 < found < truth * 1.5, (done, found, truth)


def test_finding_8_10_the_bases_trial_does_not_count() -> None:
    rows = timeline(10, seed=0, repair_s=1.0, epoch_s=3.0)
    search = replace(Config().search, final_seeds=0)
    config = replace(Config(), trials=10, search=search)
    assert estimate.seconds_left(rows[:1], 0.0, config, 1) is None
    warm = rows[2].wall_s + estimate.BETWEEN
    assert estimate.seconds_left(rows[:3], 5.0, config, 1) == pytest.approx(7 * warm)
    each = (rows[1].wall_s + rows[2].wall_s) / 2 + estimate.BETWEEN
    assert estimate.seconds_left(rows[:3], 5.0, config, 2) == pytest.approx(7 * each / 2)


@pytest.mark.nightly
@pytest.mark.parametrize("trials", [24])
def test_finding_8_10_time_left_comes_true_on_a_real_search(trials: int, tmp_path: Path) -> None:
    """By what `live.json` foretells while the digits are searched, final trainings included."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "search", "search", "digits", f"--out={out}"]
    search = subprocess.Popen(
        [*command, f"--trials={trials}"], stdout=subprocess.DEVNULL, cwd=REPOSITORY
    )
    told: dict[int, tuple[float, live.Live]] = {}
    while search.poll() is None:
        now = live.read(files.open_uri(out))
        if now is not None and now.seconds_left is not None:
            told.setdefault(now.beat, (time.monotonic(), now))
        time.sleep(0.2)
    end, wrong = time.monotonic(), []
    assert search.returncode == 0
    for at, now in told.values():
        ratio = (now.seconds_left or 0.0) / (end - at)
        print(f"{now.finished} of {trials}: {now.seconds_left:.0f} s said, {end - at:.0f} s true")
        if now.finished >= trials / 10 and not 1 / 1.5 < ratio < 1.5:
            wrong.append((now.finished, ratio))
    assert len(told) > 5 and not wrong, wrong
