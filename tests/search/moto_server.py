"""An object store for tests: moto's S3 server, over HTTP, in its own process."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
"""An address may hold none: they are to be in the environment."""


@contextmanager
def bucket(log: Path) -> Iterator[str]:
    """s3://{}?… of a bucket, its endpoint in the address; log: what the server says."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with log.open("wb") as sink:
        server = subprocess.Popen(command, stdout=sink, stderr=sink)
    try:
        endpoint = _endpoint(log)
        put = urllib.request.Request(f"http://{endpoint}/store", method="PUT")
        urllib.request.urlopen(put, timeout=60).close()
        options = f"endpoint_override={endpoint}&scheme=http&region=us-east-1"
        yield f"s3://store/{{}}?{options}"
    finally:
        server.kill()
        server.wait()


def _endpoint(log: Path) -> str:
    for _ in range(600):
        for word in log.read_text().split():
            if word.startswith("http://127.0.0.1:"):
                return word.removeprefix("http://")
        time.sleep(0.1)
    raise RuntimeError(f"moto did not start: {log.read_text()}")
