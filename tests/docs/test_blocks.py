"""Every code block of README, docs and examples: Python runs, command lines parse."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import search
from search import api
from search.cli import COMMANDS, main
from search.config import Config, loader, parser
from search.config.parser import Parser
from search.storage.ledger import Ledger
from tests.docs.blocks import REPOSITORY, Block, blocks_of, command_lines, pages
from tests.search.runs import make_rows, make_run

BLOCKS = [block for page in pages() for block in blocks_of(page)]
TYPED = "docs/your-network.md"  # whose blocks are files: test_your_network types all of it
PYTHON = {
    page: [b for b in BLOCKS if b.page == page and b.language == "python"]
    for page in {b.page for b in BLOCKS if b.language == "python"} - {TYPED}
}
SHELL = [b for b in BLOCKS if b.language in ("sh", "bash", "shell")]
COMMAND_LINES = [
    pytest.param(words, id=f"{block}-{i}")
    for block in SHELL
    for i, words in enumerate(command_lines(block))
    if words[0] == "slimfront"
]
SCRIPT_LINES = [
    pytest.param(words, id=f"{block}-{i}")
    for block in SHELL
    for i, words in enumerate(command_lines(block))
    if words[0].startswith("scripts/")
    or (words[0] == "python" and words[1].startswith(("examples/", "scripts/")))
]
LANGUAGES = {"python", "sh", "bash", "shell", "yaml", "json", "text", "html", "console"}


def test_there_are_blocks() -> None:
    assert len(PYTHON) >= 4
    assert len(COMMAND_LINES) >= 20
    assert len(SCRIPT_LINES) >= 10


def test_every_block_says_its_language() -> None:
    assert not [str(block) for block in BLOCKS if block.language not in LANGUAGES]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with RUN, a finished run of the digits."""
    folder = tmp_path_factory.mktemp("docs")
    make_run(folder / "RUN", make_rows(6, methods=["gain-curve"]))
    Ledger(folder / "RUN").compact()
    return folder


def searched(*args: Any, **options: Any) -> search.Result:
    """What a page's search leaves, once its call has been found to fit."""
    call = inspect.signature(api.run).bind(*args, **options)
    known = parser.leaf_types(Config)
    for name, value in call.arguments.get("options", {}).items():
        keys = [f"{name}.{key}" for key in value] if isinstance(value, dict) else [name]
        assert not [key for key in keys if key not in known]
    return search.open_run(str(call.arguments["out"]))


@pytest.mark.parametrize("page", sorted(PYTHON))
def test_python_runs(page: str, finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page, in their order, in one namespace: as a reader types them in."""
    monkeypatch.chdir(finished_run)
    monkeypatch.setattr(search, "run", searched)  # test_examples searches in earnest
    names: dict[str, Any] = {"__name__": "page"}
    for block in PYTHON[page]:
        code = "\n" * block.line + block.code  # tracebacks name the page's own line
        exec(compile(code, str(REPOSITORY / page), "exec"), names)


class _FlagsRead(Exception):  # noqa: N818  it is no error
    """The flags were read; what the command would do with them is another test's."""


@pytest.mark.parametrize("words", COMMAND_LINES)
def test_command_line_parses(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The command exists, and it reads its options and their values without an error."""
    read = Parser.read

    def stop(self: Parser, argv: Any) -> Any:
        read(self, argv)
        raise _FlagsRead

    monkeypatch.setattr(Parser, "read", stop)
    assert words[1] in COMMANDS or words[1].startswith("-")
    words = list(itertools.takewhile(lambda word: word not in (">", "|"), words))
    with contextlib.suppress(_FlagsRead):
        assert main(words[1:]) == 0  # 2, with one line on stderr, where an option is wrong


@pytest.mark.parametrize("words", SCRIPT_LINES)
def test_script_line_exists(words: list[str]) -> None:
    script, *options = words[1:] if words[0] == "python" else words
    file = REPOSITORY / script
    assert file.is_file()
    text = file.read_text()
    if file.suffix == "" and (program := file.with_suffix(".py")).is_file():
        text += program.read_text()  # scripts/gpu_drill is a shell around gpu_drill.py
    for option in options:
        if option.startswith("--") and len(option) > 2:
            assert f'"{option}"' in text or f" {option} " in text, option


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_shell_is_well_formed(block: Block) -> None:
    subprocess.run(["bash", "-n"], input=block.code, text=True, check=True)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "yaml"], ids=str)
def test_configurations_are_read(block: Block) -> None:
    """Unknown keys and impossible values are errors of the loader."""
    tree = yaml.safe_load(block.code)
    assert loader.from_dict(tree) is not None


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.relative_to(REPOSITORY).as_posix())
def test_links_of_the_repository_lead_somewhere(page: Path) -> None:
    targets = re.findall(
        r"\]\(([^)#\s]+)[^)]*\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    )
    local = [target for target in targets if "://" not in target]
    assert not [target for target in local if not (page.parent / target).exists()]
