"""What a cluster must offer: verdicts on each kind of answer, and the questions on real nodes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pruning.errors import UserError
from search.backend import preflight
from search.backend.preflight import Facts
from search.config import loader as configuration

GOOD = Facts("gpu1 (10.0.0.1)", 8.0, versions=preflight.versions(), gpus=8)


def test_good_nodes_pass() -> None:
    cpu = replace(GOOD, declared_gpus=0.0, gpus=None)
    preflight.judge("/mnt/run", preflight.versions(), [GOOD, cpu], gpus=1.0)
    preflight.judge("/mnt/run", preflight.versions(), [cpu], gpus=0.0)


@pytest.mark.parametrize(
    ("bad", "remedy"),
    [
        (replace(GOOD, replied=False), "set --out to a folder that all of them mount, or to a URI"),
        (replace(GOOD, problem="access denied"), r"\(access denied\); set --out"),
        (replace(GOOD, gpus=6), "declares 8 GPUs, torch sees 6 there; install a driver"),
        (replace(GOOD, gpus=0), "--num-gpus=0"),
        (replace(GOOD, versions=GOOD.versions | {"torch": "1.0"}), "has torch 1.0, the driver"),  # type: ignore[operator]
        (replace(GOOD, versions={}), "install the same version on every node"),
    ],
)
def test_each_defect_names_node_and_remedy(bad: Facts, remedy: str) -> None:
    with pytest.raises(UserError, match=remedy) as caught:
        preflight.judge("/mnt/run", preflight.versions(), [GOOD, bad], gpus=1.0)
    assert "gpu1 (10.0.0.1)" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("ray_local")
def test_a_machine_by_itself_pays_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_ask", lambda *_: pytest.fail("a node was asked"))
    preflight.check_nodes(configuration.load([f"--out={tmp_path}/run"]), gpus=0.0)
    assert not list(tmp_path.iterdir())


def test_a_node_that_joins_late_must_see_the_run(tmp_path: Path) -> None:
    config = configuration.load([f"--out={tmp_path}/run"])
    with pytest.raises(UserError, match="does not see the driver's"):
        preflight.check_joined(config)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    preflight.check_joined(config)


NODES = """
import sys, tempfile
import ray
from ray.cluster_utils import Cluster
from pruning.errors import UserError
from search.backend import preflight
from search.config import loader

with tempfile.TemporaryDirectory(prefix="sf-", dir="/tmp") as folder:
    small = {"object_store_memory": 10**8}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "temp_dir": folder, **small},
    )
    cluster.add_node(num_cpus=1, **small)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    run, kept = sys.argv[1:]
    preflight.check_nodes(loader.load([f"--out={run}"]), 0.0)
    preflight.check_nodes(loader.load([f"--out={kept}"]), 0.0)
    print("two nodes pass")
    for out in ("/proc/run", sys.argv[1]):
        original = preflight.PACKAGES
        preflight.PACKAGES = ("slimfront", "numpy")  # the driver's only
        try:
            preflight.check_nodes(loader.load([f"--out={out}"]), 0.0)
        except UserError as error:
            print(error)
        preflight.PACKAGES = original
    ray.shutdown()
    cluster.shutdown()
"""


def test_real_nodes_are_asked_and_nothing_stays(tmp_path: Path) -> None:
    """A head without CPUs and a worker; RUN not there, there with files, and not writable."""
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("mine")
    done = subprocess.run(
        [sys.executable, "-c", NODES, str(tmp_path / "new" / "run"), str(kept)],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = done.stdout.strip().splitlines()
    assert said[0] == "two nodes pass"
    assert said[1].startswith("cannot write /proc/run")
    assert "has numpy not installed, the driver" in said[2]
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert [path.name for path in kept.iterdir()] == ["file"]
