"""The fenced code blocks of the documentation."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", flags=re.M | re.S)


@dataclass(frozen=True)
class Block:
    """One code block; `page` relative to the repository, `line` of its fence."""

    page: str
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Every page that a reader is sent to, the README first."""
    first = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "clusters/README.md")]
    folders = ("docs", "examples", "scripts/bench")
    return first + sorted(p for folder in folders for p in (REPOSITORY / folder).rglob("*.md"))


def blocks_of(path: Path) -> list[Block]:
    text = path.read_text()
    page = path.relative_to(REPOSITORY).as_posix()
    return [
        Block(page, text.count("\n", 0, match.start()) + 1, match[2], _dedent(match[3], match[1]))
        for match in FENCE.finditer(text)
    ]


def command_lines(block: Block) -> list[list[str]]:
    """The words of each command of a shell block, comments and continued lines resolved."""
    lines = re.sub(r"\\\n\s*", " ", block.code).splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def _dedent(code: str, indent: str) -> str:
    return "".join(line.removeprefix(indent) for line in code.splitlines(keepends=True))
