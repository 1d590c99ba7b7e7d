"""A private Ray for the tests that need one: never somebody else's, gone with the session."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest

from tests.search import moto_server


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    import ray

    for name, value in moto_server.KEYS.items():  # workers inherit them
        os.environ.setdefault(name, value)
    # sockets lie in it: the path must be short
    with tempfile.TemporaryDirectory(prefix="sf-", dir="/tmp") as folder:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=folder,
        )
        yield
        ray.shutdown()
