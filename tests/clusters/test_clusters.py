"""The cluster files: Ray's schema for YAMLs, KubeRay's types for the RayJob, and what they say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from search.config import loader as configuration
from search.config.validation import is_local

FOLDER = Path(__file__).resolve().parents[2] / "clusters"
NAMES = ("local", "aws", "gcp")

# fields of ray-operator/apis/ray/v1/{rayjob,raycluster}_types.go of KubeRay 1.6
JOB = {
    "activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate", "metadata",
    "clusterSelector", "submitterConfig", "managedBy", "deletionStrategy", "entrypoint",
    "runtimeEnvYAML", "jobId", "submissionMode", "entrypointResources", "entrypointNumCpus",
    "entrypointNumGpus", "ttlSecondsAfterFinished", "shutdownAfterJobFinishes", "suspend",
}  # fmt: skip
CLUSTER = {
    "headGroupSpec", "workerGroupSpecs", "rayVersion", "enableInTreeAutoscaling",
    "autoscalerOptions", "headServiceAnnotations", "suspend", "authOptions",
}  # fmt: skip
HEAD = {
    "serviceType", "headService", "enableIngress", "resources", "labels", "rayStartParams",
    "template",
}  # fmt: skip
WORKERS = {
    "groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "rayStartParams",
    "template", "scaleStrategy", "idleTimeoutSeconds", "suspend", "resources", "labels",
}  # fmt: skip
AUTOSCALER = {
    "resources", "image", "imagePullPolicy", "env", "envFrom", "volumeMounts", "securityContext",
    "idleTimeoutSeconds", "upscalingMode", "version",
}  # fmt: skip
CONTAINER = {"name", "image", "env", "envFrom", "ports", "resources"}


def read(name: str) -> dict[str, Any]:
    tree = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    assert isinstance(tree, dict)
    return tree


@pytest.mark.parametrize("name", NAMES)
def test_ray_accepts_the_yaml(name: str) -> None:
    pytest.importorskip("jsonschema")
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(read(name))
    validate_config(prepared)
    assert prepared["setup_commands"] == read(name)["setup_commands"]


@pytest.mark.parametrize("name", NAMES)
def test_token_authentication_is_on_everywhere(name: str) -> None:
    tree = read(name)
    starts = tree["head_start_ray_commands"] + tree["worker_start_ray_commands"]
    starts = [command for command in starts if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token ray start" in command for command in starts)
    assert tree["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("RAY_AUTH_MODE=token" in command for command in tree["setup_commands"]), "logins"


@pytest.mark.parametrize("name", NAMES)
def test_the_head_runs_no_trial_and_the_package_is_installed(name: str) -> None:
    tree = read(name)
    head = next(c for c in tree["head_start_ray_commands"] if "ray start" in c)
    assert {"--head", "--num-cpus=0", "--num-gpus=0"} <= set(shlex.split(head))
    assert any("pip install" in c and "slimfront[cluster]" in c for c in tree["setup_commands"])
    assert "dist" in tree["file_mounts"].values()


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_workers_are_spot_gpus_that_come_and_go(name: str) -> None:
    types = read(name)["available_node_types"]
    workers = {key: node for key, node in types.items() if key != "head"}
    assert len(workers) > 1, "GPUs of different kinds in one pool"
    for node in workers.values():
        assert node["resources"]["GPU"] >= 1
        assert node["min_workers"] == 0 < node["max_workers"]
        assert re.search("spot", str(node["node_config"]), re.IGNORECASE)
    assert types["head"]["resources"] == {"CPU": 0}
    assert not re.search("spot", str(types["head"]["node_config"]), re.IGNORECASE)
    assert sum(node["max_workers"] for node in workers.values()) <= read(name)["max_workers"]


def test_rayjob_has_the_structure_of_its_crd() -> None:
    tree = read("rayjob")
    assert (tree["apiVersion"], tree["kind"]) == ("ray.io/v1", "RayJob")
    assert re.fullmatch(r"[a-z0-9-]{1,47}", tree["metadata"]["name"])
    spec = tree["spec"]
    cluster = spec["rayClusterSpec"]
    assert set(spec) <= JOB
    assert set(cluster) <= CLUSTER
    assert set(cluster["autoscalerOptions"]) <= AUTOSCALER
    assert cluster["autoscalerOptions"]["upscalingMode"] in (
        "Default",
        "Aggressive",
        "Conservative",
    )
    head = cluster["headGroupSpec"]
    assert {"rayStartParams", "template"} <= set(head) <= HEAD
    assert head["rayStartParams"]["num-cpus"] == "0", "no trials on the head"
    names = [group["groupName"] for group in cluster["workerGroupSpecs"]]
    assert len(set(names)) == len(names) > 1, "a group for each kind of GPU"
    for group in cluster["workerGroupSpecs"]:
        assert {"groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"} <= set(
            group
        )
        assert set(group) <= WORKERS
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    for group in (head, *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert {"name", "image", "resources"} <= set(container) <= CONTAINER
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        gpus = container["resources"]["limits"].get("nvidia.com/gpu", "0")
        assert gpus == ("0" if group is head else "1")
    assert cluster["authOptions"] == {"mode": "token"}


def test_rayjob_starts_a_search_that_this_version_understands() -> None:
    spec = read("rayjob")["spec"]
    words = shlex.split(spec["entrypoint"])
    assert words[:2] == ["slimfront", "search"]
    _, config = configuration.parse(words[2:])
    assert not is_local(config.out), "RUN outlives the cluster"
    groups = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert config.resources.max_concurrent == sum(group["maxReplicas"] for group in groups)
    assert config.resources.gpus_per_trial == 1


def test_readme_names_every_file_and_its_commands_parse() -> None:
    text = (FOLDER / "README.md").read_text()
    for path in FOLDER.iterdir():
        assert path.name == "README.md" or path.name in text, path.name
    lines = re.sub(r"\\\n\s*", "", text)
    found = 0
    for match in re.finditer(r"^(?:slimfront submit .*?-- |ray submit .*?-- )(.*)$", lines, re.M):
        words = shlex.split(match[1], comments=True)
        _, config = configuration.parse(words)
        assert config.out.startswith(("s3://", "gs://", "/")), match[1]
        found += 1
    assert found >= 3


def test_finding_7_11_workers_reach_the_bucket_and_nothing_else() -> None:
    """They run others' code on spot machines: no right to start machines or hand on roles."""
    types = read("aws")["available_node_types"]
    roles = {
        name: kind["node_config"]["IamInstanceProfile"]["Name"] for name, kind in types.items()
    }
    assert roles == dict.fromkeys(roles, "slimfront-worker") | {"head": "slimfront-head"}
    text = (FOLDER / "README.md").read_text()
    (given,) = re.findall(r"(?s)for role in slimfront-head slimfront-worker; do(.*?)\ndone", text)
    policy = re.search(r"--policy-name bucket --policy-document \\\n\s*'(.*?)'\n", given)
    assert policy is not None
    statements = yaml.safe_load(policy[1].replace("'$BUCKET'", "B"))["Statement"]
    assert all(action.startswith("s3:") for s in statements for action in s["Action"])
    assert {s["Resource"] for s in statements} == {"arn:aws:s3:::B", "arn:aws:s3:::B/*"}
    others = [
        line for line in text.splitlines() if "policy --role-name" in line and line not in given
    ]
    assert others, "the head's own"
    assert all("--role-name slimfront-head" in line for line in others)
    types = read("gcp")["available_node_types"]
    for name in ("l4", "a100"):
        (account,) = types[name]["node_config"]["serviceAccounts"]
        assert account["email"].startswith("slimfront-worker@")
        assert account["scopes"] == ["https://www.googleapis.com/auth/devstorage.read_write"]


def test_finding_7_11_workers_have_no_key_but_the_buckets() -> None:
    """On Google Cloud their account has one role, on one bucket; in Kubernetes no token at all."""
    text = (FOLDER / "README.md").read_text().replace("\\\n", " ")
    granted = [line for line in text.splitlines() if "slimfront-worker@" in line]
    (line,) = [line for line in granted if "binding" in line]
    assert "buckets add-iam-policy-binding gs://" in line
    assert re.findall(r"--role (\S+)", line) == ["roles/storage.objectUser"]
    spec = read("rayjob")["spec"]["rayClusterSpec"]
    for group in spec["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "slimfront-store"}}]
        assert not {"serviceAccountName", "hostNetwork", "volumes"} & set(pod)
    for kind in ("aws", "gcp", "local"):
        mounts = read(kind)["file_mounts"]
        assert set(mounts) == {"~/dist", "~/.ray/auth_token"}, "no key of the user's goes along"
