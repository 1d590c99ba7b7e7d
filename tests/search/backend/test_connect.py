"""Joining a cluster that is not there, or is locked: one line, in seconds."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from pruning.errors import UserError
from search.backend import cluster
from search.config.schema import Config, ResourceConfig


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
    monkeypatch.setattr(cluster, "ANSWER_S", 1.0)
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
    with pytest.raises(UserError, match=words):
        cluster.connect(Config(resources=ResourceConfig(address=f"127.0.0.1:{listening}")))
