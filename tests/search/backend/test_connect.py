"""Joining a cluster that is not there, or is locked: one line, in seconds."""

from __future__ import annotations

import inspect
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pruning.errors import UserError
from search import joining
from search.backend import cluster
from search.config.schema import Config, ResourceConfig
from tests.conftest import REPOSITORY

PATIENCE_S = 120.0


@pytest.fixture
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own attempt takes minutes; here it would fail the test."""

    def init(**options: Any) -> None:
        raise AssertionError("Ray was asked")

    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", init)


@pytest.fixture
def closed() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@pytest.mark.usefixtures("_no_ray")
@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "[::1]:{}"])
@pytest.mark.parametrize("by", ["configuration", "environment"])
def test_finding_7_10_an_absent_cluster_is_told_at_once(
    form: str, by: str, closed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = form.format(closed)
    monkeypatch.setattr(joining, "ANSWER_S", 1.0)
    if by == "environment":
        monkeypatch.setenv("RAY_ADDRESS", address)
        config = Config()
    else:
        config = Config(resources=ResourceConfig(address=address))
    with pytest.raises(UserError, match=r"no Ray cluster at .*RAY_ADDRESS to run on this machine"):
        cluster.connect(config)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("Unauthenticated: Invalid or missing authentication token", "RAY_AUTH_MODE=token"),
        ("RAY_AUTH_MODE is token but no auth token was found", "RAY_AUTH_MODE=token"),
        ("", "no Ray cluster at"),
        ("the cluster has another version", "the cluster has another version"),
    ],
)
def test_finding_7_10_a_locked_cluster_is_told_from_an_absent_one(
    said: str, words: str, listening: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**options: Any) -> None:
        raise ConnectionError(said)

    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.setattr(joining, "_check_server", lambda address: None)  # only Ray finds it out
    with pytest.raises(UserError, match=words):
        cluster.connect(Config(resources=ResourceConfig(address=f"127.0.0.1:{listening}")))


@pytest.mark.usefixtures("_no_ray")
def test_finding_7_10_what_listens_and_is_no_ray_is_told_in_time(
    listening: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "SERVER_S", 0.5)
    with pytest.raises(UserError, match=r"no Ray cluster at .*gave no answer in 0.5 s"):
        cluster.connect(Config(resources=ResourceConfig(address=f"127.0.0.1:{listening}")))


def test_finding_7_10_it_is_told_before_anything_is_loaded(closed: int, tmp_path: Path) -> None:
    """Neither PyTorch nor Ray, which take seconds where much else runs."""
    code = (
        "import sys; from search.cli import main; "
        "code = main(sys.argv[1:]); print(code, {'ray', 'torch'} & set(sys.modules))"
    )
    words = ["search", "digits", f"--out={tmp_path}/run", f"--resources.address=127.0.0.1:{closed}"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    assert done.stdout.strip() == "2 set()", done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.usefixtures("_no_ray")
@pytest.mark.parametrize("left", ["a dead cluster's address", "nothing"])
@pytest.mark.parametrize("by", ["configuration", "environment"])
def test_finding_7_10_auto_with_a_dead_clusters_leftovers(
    left: str, by: str, closed: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`ray stop`, or a crash, may leave its address behind: Ray would try it for minutes."""
    from ray._private import services

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(services, "find_gcs_addresses", set)  # of clusters beside the tests
    if left != "nothing":
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{closed}")
    address = "auto" if by == "configuration" else None
    if by == "environment":
        monkeypatch.setenv("RAY_ADDRESS", "auto")
    words = "no Ray cluster on this machine" if left == "nothing" else f"at 127.0.0.1:{closed} "
    with pytest.raises(UserError, match=words):
        cluster.connect(Config(resources=ResourceConfig(address=address)))


def test_finding_7_11_this_ray_finds_clusters_as_is_thought_and_another_is_left_to_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray._private import services

    assert list(inspect.signature(services.get_ray_address_from_environment).parameters) == [
        "addr",
        "temp_dir",
    ]
    monkeypatch.delattr(services, "get_ray_address_from_environment")
    assert joining._found("auto") == "auto"


def _client(address: str, out: Path, env: dict[str, str]) -> tuple[int, str]:
    """Exit code and last line of a search that is to join a cluster."""
    words = ["search", "digits", "--out", str(out), "--resources.address", address]
    done = subprocess.run(
        [sys.executable, "-m", "search", *words],
        capture_output=True,
        text=True,
        env=env,
        check=False,
        timeout=PATIENCE_S,
        cwd=REPOSITORY,
    )
    (line,) = done.stderr.strip().splitlines()
    return done.returncode, line


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="its Ray is found, and ended, by /proc")
def test_finding_7_10_a_real_cluster_with_a_token(
    tmp_path: Path, closed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a token, with none to be found, with another one; and none at all there."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    import drill_tools

    with drill_tools.drill() as d:
        here = f"127.0.0.1:{d.gcs}"
        d.start_node(
            "head", "--head", f"--port={d.gcs}", "--include-dashboard=false", "--num-cpus=0"
        )
        (tmp_path / "home").mkdir()
        without = d.env | {"HOME": str(tmp_path / "home")}
        clients = {
            "no token": without | {"RAY_AUTH_MODE": "disabled"},
            "none to be found": without,
            "another": without | {"RAY_AUTH_TOKEN": "0" * 64},
        }
        for name, env in clients.items():
            began = time.monotonic()
            code, line = _client(here, tmp_path / "run", env)
            print(f"{name}: {time.monotonic() - began:.1f} s: {line}")
            assert code == 2, line
            assert f"the Ray cluster at {here} asks for a token" in line and "AUTH_MODE" in line
        code, line = _client(f"127.0.0.1:{closed}", tmp_path / "run", d.env)
        assert code == 2 and f"no Ray cluster at 127.0.0.1:{closed}" in line
    assert not (tmp_path / "run").exists()
