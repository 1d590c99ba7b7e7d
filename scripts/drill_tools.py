"""A Ray cluster of processes on this machine for the drills: started, killed, and gone afterwards.

Every process carries a mark in its environment; nothing without the mark is ever ended.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = "SLIMFRONT_DRILL"
BIN = Path(sys.executable).parent
STARTED = "Ray runtime started"
STORE = str(100 * 2**20)  # bytes of object store for each node


class Drill:
    """A temporary folder with its own home and token, and the processes that were started in it."""

    def __init__(self) -> None:
        # sockets lie below it: the path must be short
        self.folder = Path(tempfile.mkdtemp(prefix="sfd-", dir="/tmp"))
        self.mark = uuid.uuid4().hex
        (self.folder / "home").mkdir()
        self.env = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("RAY_", "SLIMFRONT_", "AWS_")) and not key.endswith("_proxy")
        } | {
            MARK: self.mark,
            "HOME": str(self.folder / "home"),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_TMPDIR": str(self.folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
        }
        self.run(["ray", "get-auth-token", "--generate"])
        self.gcs, self.dashboard = free_port(), free_port()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    def start_head(self, cpus: int = 0) -> None:
        """A head, for no trials unless told otherwise; returns when its jobs API answers."""
        self.start_node(
            "head",
            "--head",
            f"--port={self.gcs}",
            f"--dashboard-port={self.dashboard}",
            f"--ray-client-server-port={free_port()}",
            f"--num-cpus={cpus}",
            "--num-gpus=0",
        )
        wait(lambda: self.run(["ray", "job", "list", "--address", self.address], check=False) == 0)

    def start_worker(self, name: str, cpus: int = 1, prefix: Sequence[str] = ()) -> None:
        """A further node; `prefix`: the command that is to run `ray start`."""
        address = f"--address=127.0.0.1:{self.gcs}"
        self.start_node(name, address, f"--num-cpus={cpus}", "--num-gpus=0", prefix=prefix)

    def start_node(self, name: str, *flags: str, prefix: Sequence[str] = ()) -> None:
        """A node with a folder of its own, as on a host of its own; returns when it runs.

        In a common folder, one node removes a job's files while another still uses them.
        """
        started = self.log(f"{name}.log").count(STARTED)
        own = (f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={self.folder / name}")
        command = [*prefix, "ray", "start", *flags, *own, f"--object-store-memory={STORE}"]
        with (self.folder / f"{name}.log").open("ab") as log:
            subprocess.Popen(
                [*command, "--block", "--disable-usage-stats"],
                env=self.env | {MARK: f"{self.mark}:{name}"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait(lambda: self.log(f"{name}.log").count(STARTED) > started, what=f"node {name}")

    def run(
        self, command: Sequence[str], *, check: bool = True, env: Mapping[str, str] | None = None
    ) -> int:
        """Run to its end, output into log; the exit code."""
        with (self.folder / "commands.log").open("ab") as log:
            log.write(f"\n$ {' '.join(command)}\n".encode())
            log.flush()
            done = subprocess.run(
                command, env=self.env | dict(env or {}), stdout=log, stderr=log, check=False
            )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}")
        return done.returncode

    def start(self, command: Sequence[str], log: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as sink:
            return subprocess.Popen(command, env=self.env, stdout=sink, stderr=sink)

    def log(self, name: str = "commands.log") -> str:
        path = self.folder / name
        return path.read_text(errors="replace") if path.exists() else ""

    def kill(self, name: str = "") -> int:
        """SIGKILL for all processes of a node, or of the drill; how many there were."""
        mark = f"{MARK}={self.mark}" + (f":{name}\0" if name else "")
        count = 0
        for pid in marked(mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                count += 1
        return count

    def close(self, keep: bool = False) -> None:
        """End what is left; remove the folder unless its logs are to be read."""
        for _ in range(20):  # what dies may have started another just before
            if not self.kill():
                break
            time.sleep(0.25)
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def drill() -> Iterator[Drill]:
    """A drill that cleans up after itself; logs are kept, and named, where it ended badly."""
    made = Drill()
    try:
        yield made
    except BaseException:
        made.close(keep=True)
        print(f"logs: {made.folder}", flush=True)
        raise
    made.close()


def marked(mark: str) -> list[int]:
    """Processes whose environment has the mark."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if mark.encode() in (entry / "environ").read_bytes() + b"\0":
                    found.append(int(entry.name))
    return found


def wait(ready: Callable[[], bool], seconds: float = 900, what: str = "the cluster") -> None:
    """Poll until `ready`; RuntimeError after `seconds`."""
    began = time.monotonic()
    while not ready():
        if time.monotonic() - began > seconds:
            raise RuntimeError(f"{what} was not ready in {seconds:g} s")
        time.sleep(0.5)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
