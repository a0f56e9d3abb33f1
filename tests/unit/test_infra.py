"""What operators take from infra/, against the schemas and linters that PyPI has. Nothing here was run on a cluster."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import hcl2
import kubernetes_validate
import pytest
import yaml
from hera.workflows import models as argo
from kubeflow_spark_api.models import SparkV1beta2SparkApplication

from facelake.config import Config
from facelake.stages.embedding.cost_projection import worker_memory_bytes
from tests.conftest import ROOT

KUBERNETES = ROOT / "infra" / "kubernetes"
VERSION = "1.33.0"  # Kubernetes
DOCKERFILES = sorted((ROOT / "infra" / "docker").glob("Dockerfile*"))
# fields of ray.io/v1 as KubeRay's docs/reference/api.md names them at commit 0057210
JOB_FIELDS = {
    "activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint", "entrypointNumCpus",
    "entrypointNumGpus", "entrypointResources", "jobId", "managedBy", "metadata", "rayClusterSpec", "runtimeEnvYAML",
    "shutdownAfterJobFinishes", "submissionMode", "submitterConfig", "submitterPodTemplate", "suspend",
    "ttlSecondsAfterFinished",
}  # fmt: skip
CLUSTER_FIELDS = {
    "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec",
    "headServiceAnnotations", "managedBy", "rayVersion", "suspend", "workerGroupSpecs",
}  # fmt: skip
GROUP_FIELDS = {
    "groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds", "numOfHosts", "rayStartParams",
    "scaleStrategy", "suspend", "template", "serviceType", "headService", "enableIngress",
}  # fmt: skip


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((KUBERNETES / name).read_text()))


def pods_of_rayjob() -> dict[str, dict[str, Any]]:
    (job,) = documents("rayjob.yaml")
    cluster = job["spec"]["rayClusterSpec"]
    return {"head": cluster["headGroupSpec"]} | {group["groupName"]: group for group in cluster["workerGroupSpecs"]}


def valid(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, VERSION, strict=True)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_dockerfiles(path: Path) -> None:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run([str(hadolint), str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    lines = path.read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users[-1] not in ("root", "0")
    bases = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert all(":" in base and not base.endswith(":latest") for base in bases)
    assert "-c constraints.txt" in path.read_text()


_NO_BRACKETS = str.maketrans("", "", "()")


def test_the_cuda_image_has_torch_and_its_torchvision() -> None:
    """The pinned torchvision, which has nvJPEG, was made for the torch of the constraints."""
    text = (ROOT / "infra" / "docker" / "Dockerfile.cuda").read_text()
    (chosen,) = re.findall(r"^ARG TORCHVISION=(.+)$", text, re.MULTILINE)
    assert '".[cluster,torch]" "torchvision==${TORCHVISION}"' in text
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", "--report", "-"]
    wanted = ["--no-deps", f"torchvision=={chosen}"]
    done = subprocess.run([*command, *wanted], capture_output=True, text=True, timeout=120, check=True)
    (build,) = json.loads(done.stdout)["install"]
    requires = [line.replace(" ", "").translate(_NO_BRACKETS) for line in build["metadata"]["requires_dist"]]
    assert f"torch=={pinned('torch')}" in requires
    assert "gcc" in text, "torch.compile needs a compiler"
    assert "FROM nvidia/cuda" not in text, "libraries of another CUDA version in the image would be loaded first"


@pytest.mark.parametrize("name", ["accounts.yaml", "config.yaml", "pdb.yaml", "cronjob.yaml"])
def test_kubernetes_kinds(name: str) -> None:
    for document in documents(name):
        valid(document)


def test_the_validator_has_teeth() -> None:
    (account, *_) = documents("accounts.yaml")
    with pytest.raises(kubernetes_validate.ValidationError):
        valid(account | {"automountServiceAcountToken": False})


def test_rayjob() -> None:
    (job,) = documents("rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job["spec"]) <= JOB_FIELDS
    cluster = job["spec"]["rayClusterSpec"]
    assert set(cluster) <= CLUSTER_FIELDS
    assert cluster["rayVersion"] == pinned("ray")
    for name, group in pods_of_rayjob().items():
        assert set(group) <= GROUP_FIELDS
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        valid({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}} | group["template"])


def test_requests_follow_the_plan() -> None:
    """Memory of a worker: an actor per core as `facelake plan` sizes it for photos of 4 MB, and the object store."""
    actor = worker_memory_bytes(4 << 20)
    for name in ("cpu", "gpu"):
        group = pods_of_rayjob()[name]
        (container,) = group["template"]["spec"]["containers"]
        memory = int(container["resources"]["requests"]["memory"].removesuffix("Gi")) << 30
        assert memory >= int(group["rayStartParams"]["num-cpus"]) * actor + (1 << 30)


def test_spark_application() -> None:
    (document,) = documents("sparkapplication.yaml")
    parsed = SparkV1beta2SparkApplication.from_dict(document)
    assert parsed is not None
    assert known(parsed.to_dict(), document) == []
    assert document["spec"]["sparkVersion"] == pinned("pyspark")


def test_workflow() -> None:
    (document,) = documents("workflow.yaml")
    parsed = argo.CronWorkflow.model_validate(document)
    assert known(parsed.model_dump(by_alias=True, exclude_none=True, mode="json"), document) == []
    templates = {template["name"] for template in document["spec"]["workflowSpec"]["templates"]}
    tasks = document["spec"]["workflowSpec"]["templates"][0]["dag"]["tasks"]
    assert {task["template"] for task in tasks} <= templates


def known(parsed: Any, given: Any, path: str = "") -> list[str]:
    """Paths in `given` that the model does not know: it drops them without a word."""
    if isinstance(given, dict) and isinstance(parsed, dict):
        lost = [f"{path}.{key}" for key in given if key not in parsed]
        return lost + [
            line for key in given if key in parsed for line in known(parsed[key], given[key], f"{path}.{key}")
        ]
    if isinstance(given, list) and isinstance(parsed, list):
        return [line for at, item in enumerate(given) for line in known(parsed[at], item, f"{path}[{at}]")]
    return []


def test_configs_in_maps_are_configs() -> None:
    for name in ("config.yaml", "cronjob.yaml"):
        for document in documents(name):
            if document["kind"] == "ConfigMap":
                Config.model_validate(yaml.safe_load(document["data"]["night.yaml"]))


def test_accounts_and_roles_agree() -> None:
    duties = set(terraform()["locals"][0]["stages"])
    accounts = {d["metadata"]["name"] for d in documents("accounts.yaml") if d["kind"] == "ServiceAccount"}
    assert {f"facelake-{plain(duty)}" for duty in duties} <= accounts
    used = {pod["template"]["spec"]["serviceAccountName"] for pod in pods_of_rayjob().values()}
    assert used <= accounts


def test_terraform() -> None:
    resources: dict[str, Any] = {}
    for block in terraform()["resource"]:
        for kind, named in block.items():
            resources.setdefault(plain(kind), []).extend(named.values())
    (block,) = resources["aws_s3_bucket_public_access_block"]
    assert [
        block[key]
        for key in ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
    ] == [True] * 4
    (versioning,) = resources["aws_s3_bucket_versioning"]
    assert plain(versioning["versioning_configuration"][0]["status"]) == "Enabled"
    assert resources["aws_s3_bucket_server_side_encryption_configuration"]
    assert resources["aws_s3_bucket_lifecycle_configuration"]


def test_least_rights() -> None:
    stages = {plain(k): v for k, v in terraform()["locals"][0]["stages"].items()}
    rights = {duty: {plain(a) for s in said for a in s["actions"]} for duty, said in stages.items()}
    assert rights["embed-worker"] == {"s3:GetObject", "s3:PutObject"}
    assert rights["cluster-worker"] == {"s3:GetObject", "s3:PutObject"}
    assert [duty for duty, found in rights.items() if "s3:DeleteObjectVersion" in found] == ["eraser"]
    assert not any("*" in action for found in rights.values() for action in found)


def terraform() -> dict[str, Any]:
    with (ROOT / "infra" / "terraform" / "main.tf").open() as file:
        return dict(hcl2.load(file))


def plain(text: str) -> str:
    return text.strip('"')


def pinned(package: str) -> str:
    found = re.search(rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found
    return found[1]
