"""Keys and passwords in addresses are refused: they would be written down and shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruning.errors import UserError
from pruning.models import files
from search.cli import main

ADDRESS = "s3://AKIAUSER:s3cr3t@bucket/run"


@pytest.mark.parametrize(
    "argv",
    [
        ["search", "digits", "--out", ADDRESS],
        ["search", "digits", "--model.weights", ADDRESS],
        ["search", "digits", "--search.warm_start", ADDRESS],
        ["search", "digits", "--resources.storage_path", ADDRESS],
        ["search", "digits", "--data.name", "parquet", "--data.root", ADDRESS],
        ["prune", "digits", "--to", ADDRESS],
        ["submit", "--", "digits", "--out", ADDRESS],
        ["frontier", ADDRESS],
        ["report", ADDRESS],
        ["export", ADDRESS, "--format", "csv"],
        ["compare", ADDRESS],
    ],
    ids=lambda argv: " ".join(argv[:-1]),
)
def test_finding_7_6_a_secret_in_an_address_is_refused_and_not_shown(
    argv: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert "AWS_SECRET_ACCESS_KEY" in line
    assert "s3cr3t" not in captured.err + captured.out
    assert "AKIAUSER" not in captured.err + captured.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("address", "good"),
    [
        ("https://me:pw@host/w.safetensors", False),
        ("https://host/w.safetensors?X-Amz-Signature=abc", False),
        ("abfs://container@account.dfs.core.windows.net/x?sig=abc", False),
        ("s3://bucket/run?region=eu-central-1&endpoint_override=localhost:9000", True),
        ("s3://bucket/a@b:c/run", True),
        ("gs://anonymous@bucket/run", True),
        ("abfs://container@account.dfs.core.windows.net/x", True),
        ("abfs://:key@account.dfs.core.windows.net/x", False),
        ("/home/me@work/run?token=x", True),
        ("https://host/me@home.safetensors", True),
    ],
)
def test_finding_7_6_what_counts_as_a_secret(address: str, good: bool) -> None:
    if good:
        files.refuse_secrets(address)
        return
    with pytest.raises(UserError, match="leave it out"):
        files.refuse_secrets(address)
