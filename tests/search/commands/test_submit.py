"""The `ray job submit` line: exact, harmless to look at, and refused where the job would fail."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from pruning.errors import UserError
from search import cli
from search.commands import submit, upload


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    made = tmp_path / "project"
    (made / ".git").mkdir(parents=True)
    (made / ".git" / "objects").write_bytes(b"x" * 5000)
    (made / "mine.yaml").write_text("trials: 3\n")
    (made / "large.bin").write_bytes(b"x" * 3000)
    (made / "factory.py").write_text("pass\n")
    return made


def call(folder: Path, *argv: str) -> None:
    submit.run(["--working-dir", str(folder), *argv], "slimfront submit")


def line(text: str) -> list[str]:
    return shlex.split(text.strip().splitlines()[-1])


def test_prints_the_line_and_the_largest_files(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(folder, "--address=http://head:8265", "--", "digits", "--out", "s3://b/run", "--trials=5")
    text = capsys.readouterr().out
    words = line(text)
    assert words[:7] == [
        "ray", "job", "submit", "--address", "http://head:8265", "--working-dir", str(folder)
    ]  # fmt: skip
    runtime = json.loads(words[words.index("--runtime-env-json") + 1])
    assert ".git/" in runtime["excludes"]
    search = ["slimfront", "search", "digits", "--out", "s3://b/run", "--trials=5"]
    assert words[words.index("--") + 1 :] == search
    listed = text.splitlines()
    assert listed[0].startswith("3 files of 3.0")
    assert listed[1].split() == ["3kB", "large.bin"]


def test_ignore_files_count_and_can_be_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / ".gitignore").write_text("large.bin\n")
    call(folder, "--write-rayignore", "--", "digits", "--out=/mnt/run")
    assert (folder / ".rayignore").read_text().splitlines() == list(upload.IGNORED)
    assert "--runtime-env-json" in line(capsys.readouterr().out)
    (folder / ".rayignore").write_text("factory.py\n.gitignore\n.rayignore\n.git/\n")
    call(folder, "--", "digits", "--out=/mnt/run")
    text = capsys.readouterr().out
    assert "--runtime-env-json" not in line(text), "the folder's own rules are enough"
    assert text.startswith("1 files") and "mine.yaml" in text


def test_history_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES", "")
    (folder / ".rayignore").write_text("")
    call(folder, "--", "digits", "--out=/mnt/run")
    assert "history in .git would go too" in capsys.readouterr().out


def test_config_is_named_as_the_job_sees_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    call(folder, "--", "--trials", "4", "project/mine.yaml", "--out", "/mnt/run")
    words = line(capsys.readouterr().out)
    assert words[-5:] == ["--trials", "4", "mine.yaml", "--out", "/mnt/run"]


def test_a_token_is_asked_for_and_packages_are_installed(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    call(folder, "--install", "slimfront==0.1.0", "--", "digits", "--out=/mnt/run")
    text = capsys.readouterr().out
    words = line(text)
    assert words[0] == "RAY_AUTH_MODE=token"
    assert json.loads(words[words.index("--runtime-env-json") + 1])["pip"] == ["slimfront==0.1.0"]
    assert "secret" not in text


@pytest.mark.parametrize(
    ("argv", "remedy"),
    [
        (["digits"], "after --"),
        (["--", "digits"], "URI such as s3"),
        (["--", "digits", "--out", "runs/x"], "URI such as s3"),
        (["--", "digits", "--out=s3://b/r", "--trails=3"], "closest: --trials"),
        (["--", "../other.yaml", "--out=s3://b/r"], "set --working-dir"),
        (["--exclude=mine.yaml", "--", "mine.yaml", "--out=s3://b/r"], "would not be uploaded"),
        (["--", "no.yaml", "--out=s3://b/r"], "no configuration no.yaml"),
    ],
)
def test_what_would_fail_there_is_refused_here(
    folder: Path, argv: list[str], remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder.parent / "other.yaml").write_text("trials: 3\n")
    with pytest.raises(UserError, match=remedy):
        call(folder, *argv)


def test_too_much_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.runtime_env import packaging

    monkeypatch.setattr(packaging, "GCS_STORAGE_MAX_SIZE", 2000)
    with pytest.raises(UserError, match=r"leave out large\.bin"):
        call(folder, "--", "digits", "--out=/mnt/run")


@pytest.mark.parametrize("code", [0, 3])
def test_run_hands_the_line_to_ray(
    folder: Path, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "ray"
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/said\nexit {code}\n')
    fake.chmod(0o755)
    monkeypatch.setattr(submit, "_ray", lambda: str(fake))
    argv = ["submit", "--run", "--working-dir", str(folder), "--", "digits", "--out=/mnt/run"]
    assert cli.main(argv) == code
    said = (tmp_path / "said").read_text().splitlines()
    assert said[:2] == ["job", "submit"]
    assert said[-4:] == ["slimfront", "search", "digits", "--out=/mnt/run"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model.weights", "w.safetensors"], "--model.weights w.safetensors would not be"),
        (["--model.weights", "../w.safetensors"], "lies outside"),
        (["--data.name", "parquet", "--data.root", "images"], "--data.root images would not be"),
    ],
)
def test_finding_7_11_files_that_stay_behind_are_refused(
    flags: list[str], words: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "w.safetensors").write_bytes(b"x")
    (folder / "images").mkdir()
    (folder / "images" / "train-0.parquet").write_bytes(b"x")
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=words):
        call(folder, "--", "digits", "--out=s3://b/run", *flags)


def test_finding_7_11_files_that_go_or_are_mounted_are_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / ".rayignore").write_text("runs/\n")
    (folder / "w.safetensors").write_bytes(b"x")
    call(folder, "--", "digits", "--out=s3://b/run", "--model.weights=w.safetensors")
    call(folder, "--", "digits", "--out=s3://b/run", "--model.weights=/mnt/w.safetensors")


@pytest.mark.parametrize("name", upload.USED)
def test_finding_7_11_this_ray_has_what_is_used_of_it_and_another_is_told(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private.runtime_env import packaging

    assert hasattr(packaging, name), "slimfront submit must learn this version of Ray"
    monkeypatch.delattr(packaging, name)
    with pytest.raises(UserError, match=f"another way .{name}."):
        call(folder, "--", "digits", "--out=s3://b/run")
