"""A command that must be refused."""

from __future__ import annotations

import pytest

from search.cli import main


def refuse(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must be refused; its one line on stderr."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("slimfront: ")
    return lines[0]
