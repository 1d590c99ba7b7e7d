"""resources.memory_gb: stated and held, by default a share of the machine, refused before work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pruning import UserError
from pruning.reconstruction import least_memory
from search.config import loader
from search.trial import base_model, budget, trial
from search.trial.trial import TrialContext
from tests.pruning import sample_models


def _config(*flags: str) -> Any:
    return loader.load(["digits", "--base.epochs=1", "--resources.gpus_per_trial=0", *flags])


@pytest.mark.parametrize(
    ("flags", "trials"),
    [
        ((), 8),
        (("--resources.cpus_per_trial=2",), 4),
        (("--resources.max_concurrent=2",), 2),
        (("--resources.cpus_per_trial=16",), 1),
        (("--resources.cpus_per_trial=0.5",), 16),
    ],
)
def test_half_of_the_machine_is_divided_among_the_trials_at_a_time(
    flags: tuple[str, ...], trials: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "machine_memory", lambda: 64e9)
    monkeypatch.setattr(budget, "cores", lambda: 8)
    graph = sample_models.graph("digits")
    assert budget.workspace(_config(*flags), graph, "cpu").memory_gb == 32 / trials
    stated = _config(*flags, "--resources.memory_gb=3")
    assert budget.workspace(stated, graph, "cpu").memory_gb == 3


def test_a_small_machine_still_gets_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "machine_memory", lambda: 1e8)
    graph = sample_models.graph("resnet20")
    found = budget.workspace(_config(), graph, "cpu")
    assert found.bytes == pytest.approx(least_memory(graph))


@pytest.mark.parametrize(
    ("group", "files"),
    [
        ("0::/slice/job\n", {"slice/memory.max": "3000000000\n", "slice/job/memory.max": "max\n"}),
        ("5:cpu:/x\n4:memory:/x\n", {"memory/x/memory.limit_in_bytes": "3000000000\n"}),
    ],
    ids=["version 2", "version 1"],
)
def test_a_container_s_limit_counts(
    group: str, files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    read = Path.read_text

    def text_of(path: Path, *args: Any, **kwargs: Any) -> str:
        return group if str(path) == "/proc/self/cgroup" else read(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", text_of)
    monkeypatch.setattr(budget, "CGROUPS", tmp_path)
    assert budget.machine_memory() == 3e9


def test_too_little_is_refused_before_the_base_model_is_trained() -> None:
    said: list[str] = []
    with pytest.raises(UserError, match=r"0.05 GB of memory are too few: this network takes"):
        base_model.prepare(_config("--resources.memory_gb=0.05"), say=said.append)
    assert not any("epoch" in line or "measuring" in line for line in said)


def test_none_measured_and_none_refitted_needs_none() -> None:
    flags = ("--search.method=uniform", "--search.seeds=false", "--search.repair=none")
    config = _config("--resources.memory_gb=0.05", *flags)
    budget.check(
        config, sample_models.graph("resnet20"), base_model.measured_methods(config.search)
    )


def test_a_trial_repairs_within_the_budget_and_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budget, "WAIT_S", 0.0)
    config = _config("--resources.memory_gb=1.5", "--search.method=uniform", "--search.seeds=false")
    said: list[str] = []
    base = base_model.prepare(config, say=said.append)
    assert TrialContext.open(config, base).workspace.memory_gb == 1.5

    work = TrialContext.open(
        replace(config, search=replace(config.search, repair="feedback")), base
    )
    heard = replace(work, workspace=replace(work.workspace, tell=budget.told(said.append, 0.0)))
    trial.slim(heard, "uniform", work.problem.lattice.low, {})
    assert any(line.startswith("repair: layers 1 of ") for line in said)
