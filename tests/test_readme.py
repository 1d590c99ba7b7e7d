"""The README's code blocks: Python runs, and every option of a command line is one that exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pruning import ModelInfo, save, trace
from pruning.models.registry import resolve
from search.cli import COMMANDS, main

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README.read_text(), flags=re.M | re.S)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMAND_LINES = [
    line.partition("#")[0].strip()
    for language, code in BLOCKS
    if language == "sh"
    for line in code.replace("\\\n", " ").splitlines()
    if line.startswith("slimfront ")
]


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with a RUN of one point."""
    net = resolve("digits").eval()
    graph = trace(net, (1, 8, 8))
    info = ModelInfo("digits", {}, (1, 8, 8), 10, (0.5,), (0.5,), {}, graph.digest())
    save(net, tmp_path / "RUN/points/000/model.safetensors", info)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("run_folder")
@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python_runs(code: str) -> None:
    exec(compile(code, str(README), "exec"), {"__name__": "readme"})


def test_there_are_blocks() -> None:
    assert len(PYTHON) >= 2
    assert len(COMMAND_LINES) >= 6


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_command_line_exists(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line)[1:]
    assert words[0] in COMMANDS
    assert main([words[0], "--help"]) == 0
    shown = capsys.readouterr().out
    if words[0] == "prune":  # it takes the search's options too
        main(["search", "--help"])
        shown += capsys.readouterr().out
    for word in words[1:]:
        if word.startswith("--"):
            assert re.search(rf"{re.escape(word)}\b", shown.replace("_", "-")) or word in shown, (
                word
            )
