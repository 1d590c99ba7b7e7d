#!/usr/bin/env python3
"""The claims about clusters, tried on this machine: nodes are processes, with token authentication.

job: the search submitted by `ray job submit` ends with the frontier of the one-machine run.
ssh: the same by `ray up` and `ray submit` over a loopback sshd, with the local provider.
loss: a worker node, then the head with the driver, killed in mid-run: nothing lost or doubled.
scale: trials that sleep, on 32 workers.

The searches run one trial at a time where frontiers are compared: what the sampler has seen when it
proposes, and so which networks it proposes, then depends on the seed alone.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
from drill_tools import BIN, MARK, STORE, Drill, drill, free_port, wait

QUICK = [
    "digits",
    "--base.epochs=2",
    "--finetune.epochs=0.5",
    "--search.final_seeds=1",
    "--search.final_epochs=0.5",
]
HOSTS = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
REPOSITORY = Path(__file__).resolve().parent.parent
failures = 0


def claim(text: str, good: bool, seen: object = "") -> None:
    """Print one line for a claim, and count it if it failed."""
    global failures
    failures += not good
    print(f"{'ok    ' if good else 'failed'}  {text}" + (f" ({seen})" if seen else ""), flush=True)


def job() -> None:
    with drill() as d:
        flags = ["--trials=6", "--resources.max_concurrent=1"]
        alone = one_machine(d, flags)
        d.start_head()
        d.start_worker("one")
        d.start_worker("two", prefix=private_disk(d))
        wait_nodes(d, 3)
        without = {"RAY_AUTH_MODE": "disabled"}
        code = d.run(["ray", "job", "list", "--address", d.address], check=False, env=without)
        claim("without the token the cluster's jobs cannot be listed", code != 0)
        if private_disk(d):
            code = submit(d, d.folder / "private" / "run", flags)
            refused = "does not see the driver's" in d.log()
            claim("a RUN that not every node sees is refused", code != 0 and refused)
            claim("and leaves nothing", not any((d.folder / "private").iterdir()))
        code = submit(d, d.folder / "job", flags)
        claim("ray job submit, a head without trials and two workers", code == 0)
        same(d.folder / "job", alone, "ray job submit")


def ssh() -> None:
    if not (shutil.which("sshd", path="/usr/sbin:/usr/bin") and shutil.which("rsync")):
        claim("an sshd and rsync are here; apt-get install openssh-server rsync", False)
        return
    with drill() as d:
        flags = ["--trials=6", "--resources.max_concurrent=1"]
        alone = one_machine(d, flags)
        cluster = sshd_cluster(d)
        d.run(["ray", "up", "--yes", "--no-config-cache", str(cluster)])
        claim("ray up with the local provider over ssh", True)
        wait_nodes(d, 3)
        script = str(REPOSITORY / "scripts" / "search.py")
        out = d.folder / "submitted"
        line = ["ray", "submit", "--no-config-cache", str(cluster), script, "--"]
        code = d.run([*line, *QUICK, *flags, f"--out={out}"], check=False)
        claim("ray submit", code == 0)
        same(out, alone, "ray submit")


def loss() -> None:
    with drill() as d:
        out = d.folder / "run"
        flags = ["--trials=10", "--resources.max_concurrent=2", "--finetune.epochs=6"]
        d.start_head()
        d.start_worker("one")
        d.start_worker("two")
        wait_nodes(d, 3)
        running = d.start(submit_line(d, out, flags), "loss.log")
        wait(lambda: len(rows(out)) >= 3, 1800, "the third trial")
        killed = d.kill("two")
        claim("a worker node is killed in mid-run", killed > 0, f"{killed} processes")
        claim("the search ends", running.wait(3600) == 0)
        complete(out, 10)
        before = {path.name: path.read_bytes() for path in (out / "trials").iterdir()}

        more = ["--trials=16", *flags[1:]]
        running = d.start(submit_line(d, out, more), "loss.log")
        wait(lambda: len(rows(out)) >= 12, 1800, "the twelfth trial")
        d.kill()
        running.wait(60)
        claim("the head is killed with the driver", len(rows(out)) < 16, f"{len(rows(out))} trials")
        kept = {path.name: path.read_bytes() for path in (out / "trials").iterdir()}
        d.start_head()
        d.start_worker("one")
        wait_nodes(d, 2)
        claim("the same job on a new cluster ends", submit(d, out, more) == 0)
        complete(out, 16)
        after = {path.name: path.read_bytes() for path in (out / "trials").iterdir()}
        same_rows = all(after.get(name) == text for name, text in (before | kept).items())
        claim("it went on from the ledger: finished trials are untouched", same_rows)


def scale() -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "bench" / "scaling.py")],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout, end="")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    share = lines[-1]["efficiency"] if lines else 0.0
    claim(
        "32 workers of one node do at least 90 % of 32 workers' work", share >= 0.9, f"{share:.1%}"
    )


def one_machine(d: Drill, flags: Sequence[str]) -> list[dict[str, object]]:
    out = d.folder / "alone"
    d.run(["slimfront", "search", *QUICK, *flags, f"--out={out}"])
    return frontier(out)


def submit_line(d: Drill, out: Path, flags: Sequence[str]) -> list[str]:
    folder = d.folder / "upload"
    folder.mkdir(exist_ok=True)
    target = ["--address", d.address, "--working-dir", str(folder), "--run"]
    return ["slimfront", "submit", *target, "--", *QUICK, *flags, f"--out={out}"]


def submit(d: Drill, out: Path, flags: Sequence[str]) -> int:
    return d.run(submit_line(d, out, flags), check=False)


def rows(out: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_bytes()) for path in sorted(out.glob("trials/*.json"))]


def complete(out: Path, trials: int) -> None:
    """Claims about a finished run: all there, once, and none the worse for what happened."""
    found = rows(out)
    hashes = {row["arch_hash"] for row in found}
    claim("nothing is lost", len(found) == trials, f"{len(found)} of {trials} trials")
    claim("nothing is doubled", len(hashes) == len(found))
    failed = [row["reason"] for row in found if row["status"] == "failed"]
    claim("no trial failed for it", not failed, failed[0] if failed else "")
    status = json.loads((out / "run.json").read_text())["status"]
    claim("the run is complete, with a frontier", status == "complete" and bool(frontier(out)))


def frontier(out: Path) -> list[dict[str, object]]:
    columns = ["widths", "macs", "score_val", "score_test", "method"]
    table = pq.read_table(out / "frontier.parquet", columns=columns)
    return list(table.to_pylist())


def same(out: Path, alone: list[dict[str, object]], how: str) -> None:
    found = frontier(out) if (out / "frontier.parquet").is_file() else []
    claim(f"{how}: the same frontier as on one machine", found == alone, f"{len(found)} points")


def wait_nodes(d: Drill, count: int) -> None:
    code = (
        "import ray, sys; ray.init('auto', log_to_driver=False, logging_level='error');"
        f"sys.exit(sum(n['Alive'] for n in ray.nodes()) < {count})"
    )
    auto = {"RAY_ADDRESS": f"127.0.0.1:{d.gcs}"}
    wait(lambda: d.run([str(BIN / "python"), "-c", code], check=False, env=auto) == 0)


def private_disk(d: Drill) -> list[str]:
    """What runs a command with a disk of its own at `private`; empty where that is not allowed."""
    folder = d.folder / "private"
    folder.mkdir(exist_ok=True)
    script = f'mount -t tmpfs none {folder} && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", script, "sh"]
    allowed = subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    return prefix if allowed else []


def sshd_cluster(d: Drill) -> Path:
    """An sshd with a port and keys of its own, and the YAML of a cluster on three loopback hosts.

    Ray knows no port but 22, and ssh no home but the user's own: so `ssh` is a script that adds
    port and key. Two settings are unlike those of clusters/local.yaml: no `ray stop`, which would
    end other people's Ray on this machine, and ports, addresses and turns, as three nodes share one
    host.
    """
    folder, port = d.folder / "ssh", free_port()
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        d.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)])
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    (folder / "config").write_text(
        "".join(f"ListenAddress {address}:{port}\n" for address in HOSTS)
        + f"HostKey {folder}/host\nPidFile none\nAuthorizedKeysFile {folder}/authorized\n"
        f"StrictModes no\nPermitRootLogin prohibit-password\nPrintMotd no\nMaxStartups 100\n"
        f'SetEnv "HOME={d.env["HOME"]}" "{MARK}={d.mark}"\n'
    )
    shim = folder / "bin" / "ssh"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -p {port} -i {folder}/user "$@"\n')
    shim.chmod(0o755)
    d.env["PATH"] = f"{shim.parent}:{d.env['PATH']}"
    kept = ("PATH", "PYTHONPATH", "RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED", "OMP_NUM_THREADS")
    lines = [f"export {key}='{d.env[key]}'\n" for key in kept if key in d.env]
    # among several Rays on one host, auto would have to guess
    lines.append(f"export RAY_TMPDIR='{d.folder}/head' RAY_ADDRESS=127.0.0.1:{d.gcs}\n")
    (d.folder / "head").mkdir()
    (d.folder / "home" / ".bashrc").write_text("".join(lines))
    os.makedirs("/run/sshd", exist_ok=True)
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/bin") or "sshd"
    d.start([sshd, "-D", "-e", "-f", str(folder / "config")], "sshd.log")

    base = free_port()
    here = "$(echo $SSH_CONNECTION | cut -d' ' -f3)"  # the address that this node was called by
    node = (
        f"flock --close {folder}/turn env -u RAY_ADDRESS "
        f"ray start --node-ip-address={here} --num-gpus=0 "
        f"--object-store-memory={STORE} --temp-dir={d.folder}/{here} "
        f"--dashboard-agent-listen-port=$(({base} + $(echo {here} | cut -d. -f4)))"
    )
    config = {
        "cluster_name": "slimfront-drill",
        "provider": {"type": "local", "head_ip": HOSTS[0], "worker_ips": HOSTS[1:]},
        "auth": {
            "ssh_user": getpass.getuser(),
            "ssh_private_key": str(folder / "user"),
        },
        "upscaling_speed": 100,
        "file_mounts": {"~/.ray/auth_token": f"{d.env['HOME']}/.ray/auth_token"},
        "head_start_ray_commands": [
            f"RAY_enable_autoscaler_v2=0 {node} --head --port={d.gcs} --num-cpus=0 "
            f"--dashboard-port={d.dashboard} --ray-client-server-port={free_port()} "
            "--autoscaling-config=~/ray_bootstrap_config.yaml"
        ],
        "worker_start_ray_commands": [f"{node} --address=$RAY_HEAD_IP:{d.gcs} --num-cpus=1"],
    }
    path = d.folder / "cluster.yaml"
    path.write_text(json.dumps(config, indent=1))  # JSON is YAML
    return path


STEPS = {"job": job, "ssh": ssh, "loss": loss, "scale": scale}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("steps", nargs="*", default=["all"], choices=[*STEPS, "all"])
    chosen = parser.parse_args().steps
    for name, step in STEPS.items():
        if name in chosen or "all" in chosen:
            began = time.monotonic()
            try:
                step()
            except Exception as error:
                claim(f"{name} ran to its end", False, f"{type(error).__name__}: {error}")
            print(f"        {name}: {time.monotonic() - began:.0f} s", flush=True)
    return min(failures, 1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
