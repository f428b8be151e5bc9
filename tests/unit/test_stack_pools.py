"""Job templates of the Kubernetes and Docker pools: whole, bounded, without secrets."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

POOLS = Path(__file__).resolve().parents[2] / "deployments" / "pools"
PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}")
FROM_PREFECT = {"name": "release-demo", "labels": {"of": "a-run"}, "command": "python -m run"}
FROM_DEPLOYMENT = {"image": "ingot:test", "env": {"INGOT_SHARED": "s3://team/ingot"}}


def template(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((POOLS / f"{kind}.json").read_text())
    return found


def faults(found: dict[str, Any]) -> list[str]:
    """Say what Prefect would accept and then ignore."""
    variables = found["variables"]
    jsonschema.Draft202012Validator.check_schema(variables)
    used = set(PLACEHOLDER.findall(json.dumps(found["job_configuration"])))
    known = set(variables["properties"])
    said = [f"no variable {name}" for name in sorted(used - known)]
    said += [f"unused variable {name}" for name in sorted(known - used)]
    said += [f"required {name}" for name in variables["required"] if name not in known]
    for name, one in variables["properties"].items():
        if "default" in one:
            try:
                jsonschema.validate(one["default"], one)
            except jsonschema.ValidationError as problem:
                said.append(f"default of {name}: {problem.message}")
        said += [f"{name} has no {key}" for key in ("title", "description") if not one.get(key)]
    return said


def job(kind: str) -> dict[str, Any]:
    """Fill a template in as a worker does."""
    from prefect.utilities.templating import apply_values

    found = template(kind)
    properties = found["variables"]["properties"]
    defaults = {key: one["default"] for key, one in properties.items() if "default" in one}
    values = {**defaults, **FROM_PREFECT, **FROM_DEPLOYMENT}
    jsonschema.validate(values, found["variables"])
    filled: dict[str, Any] = apply_values(found["job_configuration"], values)
    return filled


@pytest.mark.parametrize("kind", ["kubernetes", "docker"])
def test_every_placeholder_has_a_variable_and_the_reverse(kind: str) -> None:
    assert faults(template(kind)) == []


@pytest.mark.parametrize("kind", ["kubernetes", "docker"])
def test_planted_faults_are_found(kind: str) -> None:
    found = template(kind)
    found["job_configuration"]["image_"] = "{{ imgae }}"
    found["variables"]["properties"]["unused"] = {"type": "string"}
    found["variables"]["properties"]["shm_size"]["default"] = 7
    assert [fault.split(":")[0] for fault in faults(found)] == [
        "no variable imgae",
        "unused variable unused",
        "default of shm_size",
        "unused has no title",
        "unused has no description",
    ]


@pytest.mark.parametrize("kind", ["kubernetes", "docker"])
def test_no_secret_is_inside(kind: str) -> None:
    found = template(kind)
    text = json.dumps([found["job_configuration"], _defaults(found)])
    assert not re.search(r"(?i)password|auth_string|aws_|api_key|://", text)


def _defaults(found: dict[str, Any]) -> list[object]:
    return [one.get("default") for one in found["variables"]["properties"].values()]


# The fields of a job that Kubernetes knows and the template uses; it drops others with a warning
# that nobody sees. Prefect's worker wants parallelism and completions in the pod (3.8.8).
POD = {
    "parallelism", "completions", "restartPolicy", "serviceAccountName", "securityContext",
    "automountServiceAccountToken", "terminationGracePeriodSeconds", "containers", "volumes",
}  # fmt: skip
CONTAINER = {
    "name", "image", "imagePullPolicy", "args", "env", "envFrom", "securityContext", "resources",
    "volumeMounts",
}  # fmt: skip


def manifest_faults(manifest: dict[str, Any]) -> list[str]:
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    said = [f"pod: {key}" for key in sorted(set(pod) - POD)]
    said += [f"container: {key}" for key in sorted(set(container) - CONTAINER)]
    volumes = {volume["name"] for volume in pod["volumes"]}
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    said += [f"volume {name}" for name in sorted(volumes ^ mounts)]
    if (manifest["apiVersion"], manifest["kind"]) != ("batch/v1", "Job"):
        said.append("not a job")
    if pod["restartPolicy"] != "Never" or manifest["spec"]["backoffLimit"] != 0:
        said.append("Kubernetes would repeat what Prefect repeats")
    for bound in ("requests", "limits"):
        if not re.fullmatch(r"\d+(Mi|Gi)", str(container["resources"][bound].get("memory"))):
            said.append(f"memory {bound}")
    return said


def test_kubernetes_job_is_whole_and_bounded() -> None:
    configuration = job("kubernetes")
    manifest = configuration["job_manifest"]
    assert manifest_faults(manifest) == []
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    where = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(where) == {"/var/lib/ingot", "/landing", "/dev/shm"}
    by_name = {volume["name"]: volume for volume in pod["volumes"]}
    assert by_name[where["/dev/shm"]]["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}
    assert container["image"] == "ingot:test"
    assert {"name": "INGOT_HOME", "value": "/var/lib/ingot"} in container["env"]
    assert container["envFrom"] == [{"secretRef": {"name": "ingot", "optional": True}}]
    assert manifest["spec"]["ttlSecondsAfterFinished"] == 86400  # a number, not its text
    assert configuration["env"] == FROM_DEPLOYMENT["env"]


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (lambda pod: pod["containers"][0].update(resurces={}), "container: resurces"),
        (lambda pod: pod["volumes"].pop(), "volume shm"),
        (lambda pod: pod.update(restartPolicy="OnFailure"), "Kubernetes would repeat"),
        (lambda pod: pod["containers"][0]["resources"]["limits"].clear(), "memory limits"),
    ],
)
def test_planted_fault_in_the_job_is_found(fault: Any, found: str) -> None:
    manifest = copy.deepcopy(job("kubernetes")["job_manifest"])
    fault(manifest["spec"]["template"]["spec"])
    assert found in " ".join(manifest_faults(manifest))


def test_docker_container_is_whole_and_bounded() -> None:
    from docker.types import HostConfig

    configuration = job("docker")
    assert configuration["volumes"] == ["ingot_state:/var/lib/ingot", "ingot_landing:/landing:ro"]
    assert configuration["mem_limit"] == configuration["memswap_limit"] == "24g"
    assert configuration["privileged"] is False
    # docker-py refuses what Docker would not understand.
    made = HostConfig(
        version="1.43",
        mem_limit=configuration["mem_limit"],
        binds=configuration["volumes"],
        **configuration["container_create_kwargs"],
    )
    assert made["ShmSize"] == 1024**3
    with pytest.raises(TypeError):
        HostConfig(version="1.43", shm_sise="1g")
