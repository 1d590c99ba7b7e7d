"""A task's own errors from the command line: one line and 2, or a failed row; nothing by half."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.cli import main
from search.storage.ledger import Ledger

FAULTS = {
    "LossNaN": r"loss(model, batch) gave nan on the first batch",
    "LossNoTensor": "gave a Tensor of shape [3]; return the mean loss",
    "MetricNoNumber": "evaluate returned a dict; return the RMSE as a number",
    "MetricNaN": "RMSE nan on val",
    "NoBatches": "no batches",
    "EmptyBatches": "loss raised RuntimeError",
    "NoInputs": "inputs() gave no batches",
    "ModelLocked": "Sequential cannot be copied",
    "EvaluateRaises": "evaluate raised KeyError: 'boxes",
    "TrainRaises": "train raised FileNotFoundError: photos",
}
SLIM = ("loss is nan", "no finite score: nan", "evaluate raised KeyError: 'boxes")
FEW = [
    "--trials=6",
    "--search.method=l2-global",
    "--resources.max_concurrent=1",
    "--search.final_seeds=0",
    "--finetune.epochs=1",
]


def search(name: str, out: Path) -> int:
    task = f"--task=tests.search.tasks.bad_tasks:{name}"
    return main(["search", task, f"--out={out}", "--trust_factory=true", *FEW])


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize(("name", "said"), FAULTS.items())
def test_what_the_whole_network_shows_is_one_line_and_leaves_nothing(
    name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(name, tmp_path / "run") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("slimfront: ") and said in line
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("ray_local")
def test_what_slim_networks_alone_show_are_failed_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search("SlimFaults", tmp_path / "run") == 0
    rows = Ledger(tmp_path / "run").rows()
    failed = [row for row in rows if row.status == "failed"]
    assert len(failed) >= 2 and all("\n" not in row.reason for row in failed)
    assert all(any(said in row.reason for said in SLIM) for row in failed)
    assert "Traceback" not in capsys.readouterr().err
    assert (tmp_path / "run/report.html").is_file()
