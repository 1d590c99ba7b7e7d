"""docs/your-network.md typed into a shell, block by block: issue 14's fifth acceptance point."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import FENCE, REPOSITORY

PAGE = REPOSITORY / "docs" / "your-network.md"
TITLE = re.compile(r'```python title="([\w.]+)"')


def environment(folder: Path) -> dict[str, str]:
    """A shell with `slimfront` and `python` as an installation has them."""
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    for name, words in (("slimfront", "-P -m search"), ("python", "")):
        script = bin_folder / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        script.chmod(0o755)
    path = f"{bin_folder}:{os.environ['PATH']}"
    known = {"PATH": path, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return os.environ | known | {"SLIMFRONT_CACHE": str(folder / "cache"), "COLUMNS": "200"}


@pytest.mark.slow
def test_the_path_of_a_new_user(tmp_path: Path) -> None:
    """A search by Ray on two cores, a minute or two."""
    pytest.importorskip("onnxruntime")
    env, work, said = environment(tmp_path), tmp_path / "work", ""
    work.mkdir()
    for match in FENCE.finditer(PAGE.read_text()):
        if titled := TITLE.match(match[0]):
            (work / titled[1]).write_text(match[3])
        elif match[2] == "sh":
            done = subprocess.run(
                ["bash", "-e"],
                input=match[3],
                cwd=work,
                env=env,
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
            assert done.returncode == 0, f"{match[3]}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
            said += done.stdout + done.stderr
    for words in (
        "all 80 images looked at are 16×16, taking 16",
        "mine.pt: weights taken from 'state_dict'",
        "mine.pt: names taken without their prefix module.",
        "is this the score you know?",
    ):
        assert words in said
    by_hand = re.search(r"([\d.]+) by hand, ([\d.]+) in the table", said)
    by_onnx = re.search(r"([\d.]+) by ONNX", said)
    assert by_hand and by_onnx
    assert by_hand[1] == by_hand[2] == by_onnx[1]
    assert float(by_hand[1]) > 0.5
    assert re.search(r"\d+ of \d+ MACs", said)
