"""Each example runs as its reader runs it, with few trials and epochs, and does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import REPOSITORY, blocks_of

EXAMPLES = REPOSITORY / "examples"


def run(name: str, folder: Path, *arguments: str) -> str:
    """What an example prints; its folder is the working one, as a reader's would be."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def percents(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"([\d.]+)%", text)]


def test_every_example_is_run_here() -> None:
    own = Path(__file__).read_text()
    assert not [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in own]


def test_own_network(tmp_path: Path) -> None:
    """The MAC targets are met, and at three quarters the repair loses little."""
    whole, *slim = run("own_network.py", tmp_path, "--epochs", "3").splitlines()
    (base,) = percents(whole)
    asked = [percents(line) for line in slim]
    assert [row[0] for row in asked] == [75, 50, 25]
    assert all(macs <= share for share, macs, _ in asked)
    assert asked[0][2] > base - 5


def test_prune_and_train(tmp_path: Path) -> None:
    """Training brings back what the repair left out."""
    lines = run("prune_and_train.py", tmp_path, "--base-epochs", "6", "--epochs", "2").splitlines()
    whole, repaired, trained = (percents(line)[0] for line in lines)
    assert whole > 85
    assert 30 < repaired < trained + 1
    assert trained > whole - 10


def test_search_from_python(tmp_path: Path) -> None:
    """The frontier's best point within the limit is loaded, and the report is written."""
    few = ("--trials", "2", "--epochs", "4", "--at-most", "100%")
    said = run("search_from_python.py", tmp_path, *few, "--out", "RUN")
    *_, point, report = said.splitlines()
    assert re.fullmatch(r"point \d+: [\d,]+ MACs, [\d.]+% of a test batch", point)
    assert percents(point)[0] > 50
    assert (tmp_path / "RUN/report.html").exists()
    assert "report.html" in report


def test_resume_extend_and_deploy(tmp_path: Path) -> None:
    """The second session leaves the first one's rows alone; the ONNX says what PyTorch says."""
    few = ("--trials", "4", "--epochs", "2")
    said = run("resume_and_extend.py", tmp_path, *few, "--out", "RUN").splitlines()
    assert said[-2] == "first session: 2 trials, 2 of their files are as they were"
    assert said[-1].startswith("second session: 2 trials, ")
    pytest.importorskip("onnxruntime", reason="needs onnxruntime (the export extra)")
    said = run("deploy_onnx.py", tmp_path, "RUN", "--at-most", "100%").splitlines()
    assert float(said[-1].split()[-1]) < 1e-3
    assert list(tmp_path.glob("RUN/points/*/model.onnx"))


def test_cluster(tmp_path: Path) -> None:
    said = run("cluster.py", tmp_path, "--trials", "2", "--out", str(tmp_path / "RUN"))
    assert said.splitlines()[-1] == "2 trials on 2 nodes of 1 host"


def test_segmentation(tmp_path: Path) -> None:
    """A folder of pictures in, a frontier in mIoU out, and a network that finds most digits."""
    few = ("--trials", "1", "--epochs", "6", "--out", "RUN", "--at-most", "100%")
    *_, chosen, found = run("segmentation.py", tmp_path, *few).splitlines()
    assert re.fullmatch(r"Point\(.* MACs, [\d.]+%\); the whole network [\d.]+%", chosen)
    assert percents(found)[0] > 25
    assert "mIoU on val [%]" in (tmp_path / "RUN/report.html").read_text()


def test_detection(tmp_path: Path) -> None:
    few = ("--trials", "1", "--epochs", "2", "--out", "RUN", "--at-most", "100%")
    *_, chosen, found = run("detection.py", tmp_path, *few).splitlines()
    assert percents(chosen)[-1] > 30
    assert re.match(r"\d digits; the surest box is \[", found)


def test_own_task(tmp_path: Path) -> None:
    """Less is better: the error is far below that of guessing; the page shows the same task."""
    (page, *_) = blocks_of(REPOSITORY / "docs/your-task.md")
    own = (EXAMPLES / "own_task.py").read_text()
    assert page.code[page.code.index("class Angles") :].strip() in own
    few = ("--trials", "3", "--out", "RUN", "--at-most", "100%")
    said = run("own_task.py", tmp_path, *few).splitlines()[-1]
    found = re.fullmatch(r"Point\(point \d+, [\d.]+k? MACs, ([\d.]+) °\); .* ([\d.]+) °", said)
    assert found and float(found[1]) < 12
    assert "error on val [°]" in (tmp_path / "RUN/report.html").read_text()
