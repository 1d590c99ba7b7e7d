"""The export command: its flags, what it lacks, the trials as CSV, in Optuna and in MLflow."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pyarrow.csv
import pytest

from search.cli import main
from tests.search.runs import make_rows, make_run


def test_missing_onnx_names_the_extra(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnx" else find(name)
    )
    assert main(["export", str(run), "--format", "onnx"]) == 2
    assert "onnx needs onnx; pip install 'slimfront[export]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "say what to export"),
        (["--format", "tflite"], "must be one of csv, parquet, onnx"),
        (["--format", "torch-export", "--point", "99"], "the frontier has points 0 to"),
        (["--format", "torch-export", "--point", "0", "--knee"], "leave out"),
        (["--latency", "--batch", "[0]"], "--batch needs sizes of 1 or more"),
        (["--format", "torch-export", "--at-most", "1k"], "the nearest is point 0"),
    ],
)
def test_bad_flags(
    run: Path, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), *flags]) == 2
    assert words in capsys.readouterr().err


def test_a_run_that_has_not_ended_has_no_points(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = make_run(tmp_path, make_rows(3), status="running")
    assert main(["export", place, "--format", "torch-export"]) == 2
    assert "let the search end" in capsys.readouterr().err
    assert main(["export", place, "--format", "csv"]) == 0  # its trials so far
    assert pyarrow.csv.read_csv(tmp_path / "trials.csv").num_rows == 3
    assert not (tmp_path / "frontier.csv").exists()


def test_optuna_reads_the_journal(run: Path) -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    for _ in range(2):  # a second export replaces the first
        assert main(["export", str(run), "--format", "optuna"]) == 0
    storage = JournalStorage(JournalFileBackend(str(run / "optuna.journal")))
    study = optuna.load_study(study_name=None, storage=storage)
    assert [trial.state for trial in study.trials].count(TrialState.COMPLETE) == 5
    assert [trial.state for trial in study.trials].count(TrialState.FAIL) == 1
    first = study.trials[0]
    assert first.values == [first.values[0], 1.0]  # the base model has all of the MACs
    assert "ratio" in study.trials[1].params
    assert study.trials[5].user_attrs["reason"] == "RuntimeError: broken"


def test_mlflow_gets_a_run_for_each_trial(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow (pip install mlflow-skinny)")
    for _ in range(2):
        assert main(["export", str(run), "--format", "mlflow"]) == 0
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(f"slimfront {run}")
    assert len(client.search_runs([experiment.experiment_id])) == 6


def test_without_mlflow_it_says_what_to_install(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert main(["export", str(run), "--format", "mlflow"]) == 2
    assert "pip install mlflow-skinny" in capsys.readouterr().err
