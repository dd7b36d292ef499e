"""The Helm chart renders what Kubernetes takes, and every setting reaches the pods."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import Any

import kubernetes_validate
import pytest
import yaml  # type: ignore[import-untyped]
from pydantic import SecretStr

from backend import __version__
from backend.commands.quickstart.studio import ROOT
from backend.options import ProjectOptions
from backend.settings import Settings, load_settings

CHART = ROOT / "deploy" / "helm" / "firstlight"
CPU, GPU = CHART / "ci" / "cpu-values.yaml", CHART / "ci" / "gpu-values.yaml"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]

SETTINGS = {name.upper() for name in Settings.model_fields}
OPTIONS = {f"FIRSTLIGHT_{name.upper()}" for name in ProjectOptions.model_fields}
OF_THE_CHART = {"HOST", "PORT", "DATA_DIR", "DEVICE"}  # said so in values.yaml
OF_OTHERS = {"AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"}  # botocore's
ROLES = ("web", "worker")

needs_helm = pytest.mark.seconds
both = pytest.mark.parametrize("values", [CPU, GPU], ids=["cpu", "gpu"])


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run helm; without it, skip the test, or fail where CI has to have it."""
    if shutil.which("helm") is None:
        missing = "helm is missing; .ci/helm installs it"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(missing)
    return subprocess.run(["helm", *arguments], capture_output=True, text=True, check=False)


@cache
def rendered(values: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return every manifest by its kind and name."""
    done = helm("template", "scans", CHART, "--namespace", "ward", "--values", values)
    assert not done.returncode, done.stderr
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(done.stdout)}


def pod(values: Path, role: str) -> dict[str, Any]:
    """Return the template of the pods of a role."""
    found: dict[str, Any] = rendered(values)["Deployment", f"scans-{role}"]["spec"]["template"]
    return found


def containers(values: Path, role: str) -> list[dict[str, Any]]:
    """Return the containers of the pods of a role, in the order in which they start."""
    spec = pod(values, role)["spec"]
    return [*spec["initContainers"], *spec["containers"]]


def environment(values: Path, role: str) -> dict[str, str]:
    """Return the environment of a role's process; a secret's value is its name."""
    own = {
        one["name"]: one.get("value") or one["valueFrom"]["secretKeyRef"]["key"]
        for one in containers(values, role)[-1]["env"]
    }
    return {**rendered(values)["ConfigMap", "scans"]["data"], **own}


def names(part: str) -> set[str]:
    """Return the names that a map of the values may have."""
    return set(SCHEMA["properties"][part]["properties"])


def test_every_setting_and_option_can_be_given() -> None:
    assert names("settings") | names("secrets") >= (SETTINGS | OPTIONS) - OF_THE_CHART
    assert names("settings") <= (SETTINGS | OPTIONS | OF_OTHERS) - OF_THE_CHART
    assert names("settings").isdisjoint(names("secrets"))


def test_secrets_are_given_by_reference_alone() -> None:
    secret = {
        name.upper()
        for name, field in Settings.model_fields.items()
        if field.annotation is SecretStr
    }
    assert names("secrets") >= secret | {"DATABASE_URL"}


def test_the_schema_knows_every_value_and_no_other() -> None:
    def check(values: dict[str, Any], schema: dict[str, Any]) -> None:
        known = schema.get("properties", {})
        assert values.keys() <= known.keys() or schema == {"type": "object"}
        for name in values.keys() & known.keys():
            if isinstance(values[name], dict):
                check(values[name], known[name])

    free = {"settings", "secrets"}
    assert VALUES.keys() == SCHEMA["properties"].keys() - {"global"}  # helm's own
    check({name: value for name, value in VALUES.items() if name not in free}, SCHEMA)


def test_the_chart_is_of_this_release() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__


@pytest.mark.parametrize("role", ROLES)
def test_the_memory_of_a_pod_is_that_of_a_service_of_compose(role: str) -> None:
    limit = VALUES[role]["resources"]["limits"]["memory"]
    assert COMPOSE[role]["mem_limit"].endswith(f":-{limit.removesuffix('i').lower()}}}")


@needs_helm
@both
def test_the_chart_passes_lint(values: Path) -> None:
    done = helm("lint", "--strict", CHART, "--values", values)
    assert not done.returncode, done.stdout + done.stderr


@needs_helm
@both
@pytest.mark.parametrize("version", ["1.25", kubernetes_validate.latest_version()])
def test_kubernetes_takes_every_manifest(values: Path, version: str) -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"] == ">=1.25.0-0"
    for manifest in rendered(values).values():
        kubernetes_validate.validate(manifest, version, strict=True)


@needs_helm
@both
@pytest.mark.parametrize("role", ROLES)
def test_the_environment_of_a_pod_is_one_that_the_service_takes(
    values: Path, role: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = environment(values, role)
    assert given.keys() >= OF_THE_CHART
    written = yaml.safe_load(values.read_text())["settings"]
    known = {"DATABASE_URL": "postgresql+psycopg://u@h/d", "IMPORTS_DIR": str(tmp_path)}
    monkeypatch.setattr(os, "environ", given | known)
    settings = load_settings()
    assert settings.public_url == "http://scans.ward.svc:9090"
    assert settings.label_studio_url == written["LABEL_STUDIO_URL"]
    if values == GPU:
        assert settings.max_image_pixels == written["MAX_IMAGE_PIXELS"]
        assert ProjectOptions().alpha == written["FIRSTLIGHT_ALPHA"]
        assert ProjectOptions().refine is written["FIRSTLIGHT_REFINE"]


@needs_helm
@both
@pytest.mark.parametrize("role", ROLES)
def test_no_container_runs_as_root_or_writes_to_its_image(values: Path, role: str) -> None:
    spec = pod(values, role)["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"]
    assert f"--uid {spec['securityContext']['runAsUser']}" in (ROOT / "Dockerfile").read_text()
    for container in containers(values, role):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounted >= {"/data", "/tmp"}  # noqa: S108


@needs_helm
@both
@pytest.mark.parametrize("role", ROLES)
def test_tables_are_migrated_before_a_process_starts(values: Path, role: str) -> None:
    before, process = containers(values, role)
    assert before["command"] == ["python", "-m", "backend", "migrate"]
    assert process["command"] == ["python", "-m", "backend", role]
    assert before["image"] == process["image"]
    assert {one["name"] for one in before["env"]} >= {"DATABASE_URL", "DATA_DIR"}


@needs_helm
@both
def test_both_processes_are_probed(values: Path) -> None:
    [_, web], [_, worker] = containers(values, "web"), containers(values, "worker")
    assert web["livenessProbe"]["httpGet"]["path"] == "/health"
    assert web["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert worker["livenessProbe"]["exec"]["command"] == [*worker["command"], "--alive"]


@needs_helm
def test_only_workers_get_gpus_and_only_where_they_are_wanted() -> None:
    gpus = {
        (values, role): environment(values, role)["DEVICE"]
        for values in (CPU, GPU)
        for role in ROLES
        if (containers(values, role)[-1]["resources"]["limits"]).get("nvidia.com/gpu")
    }
    assert gpus == {(GPU, "worker"): "cuda"}
    assert pod(GPU, "worker")["spec"]["runtimeClassName"] == "nvidia"
    assert environment(GPU, "web")["DEVICE"] == environment(CPU, "worker")["DEVICE"] == "cpu"
    assert rendered(GPU)["Deployment", "scans-worker"]["spec"]["strategy"] == {"type": "Recreate"}


@needs_helm
@pytest.mark.parametrize("role", ROLES)
def test_artifacts_lie_in_a_volume_of_all_pods_or_in_a_bucket(role: str) -> None:
    volumes = {
        values: {
            mount["mountPath"]: mount["name"]
            for mount in containers(values, role)[-1]["volumeMounts"]
        }
        for values in (CPU, GPU)
    }
    assert environment(CPU, role)["ARTIFACTS_URL"] in volumes[CPU]
    assert environment(CPU, role)["IMPORTS_DIR"] in volumes[CPU]
    [claim] = [one for one in pod(CPU, role)["spec"]["volumes"] if one["name"] == "artifacts"]
    assert ("PersistentVolumeClaim", claim["persistentVolumeClaim"]["claimName"]) in rendered(CPU)
    assert environment(GPU, role)["ARTIFACTS_URL"].startswith("s3://")
    assert "artifacts" not in volumes[GPU].values()
    assert "IMPORTS_DIR" not in environment(GPU, role)
    assert "PersistentVolumeClaim" not in {kind for kind, _ in rendered(GPU)}


@needs_helm
@both
def test_the_service_and_the_policies_select_the_pods_that_they_are_for(values: Path) -> None:
    manifests = rendered(values)
    labels = {role: pod(values, role)["metadata"]["labels"].items() for role in ROLES}
    served = manifests["Service", "scans"]["spec"]["selector"].items()
    assert served <= labels["web"]
    assert not served <= labels["worker"]
    for role in ROLES:
        policy = manifests["NetworkPolicy", f"scans-{role}"]["spec"]
        assert policy["podSelector"]["matchLabels"].items() <= labels[role]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert bool(policy["ingress"]) is (role == "web")


@needs_helm
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("settings.PORT=80", "'PORT' not allowed"),
        ("settings.FIRSTLIGHT_ALPHAA=1", "'FIRSTLIGHT_ALPHAA' not allowed"),
        ("secrets.WEBHOOK_SECRET=hunter2", "/secrets/WEBHOOK_SECRET"),
        ("settings.LABEL_STUDIO_URL=", "settings.LABEL_STUDIO_URL is empty: write how"),
        ("image.repository=", "image.repository is empty: name the image"),
        ("image.digest=latest", "/image/digest"),
        ("wroker.replicas=2", "'wroker' not allowed"),
    ],
)
def test_a_mistake_in_the_values_is_said(change: str, said: str) -> None:
    done = helm("template", "scans", CHART, "--values", CPU, "--set", change)
    assert done.returncode
    assert said in done.stderr
    assert "hunter2" not in done.stderr


@needs_helm
def test_the_values_in_the_docs_are_taken(tmp_path: Path) -> None:
    pages = (ROOT / "docs" / "kubernetes.md", ROOT / "docs" / "gpu.md")
    written = "".join(page.read_text() for page in pages)
    blocks = re.findall(r"^ *```yaml\n(.*?)^ *```", written, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    given: list[str | Path] = []
    for number, block in enumerate(blocks):
        (tmp_path / f"{number}.yaml").write_text(dedent(block))
        given += ["--values", tmp_path / f"{number}.yaml"]
    done = helm("template", "firstlight", CHART, *given)
    assert not done.returncode, done.stderr


@needs_helm
def test_a_tag_of_the_workers_wins_over_the_digest_of_the_other_image() -> None:
    digest = f"sha256:{'a' * 64}"
    done = helm("template", "scans", CHART, "--values", GPU, "--set", f"image.digest={digest}")
    images = {line.split()[1] for line in done.stdout.splitlines() if " image: " in line}
    repository = "registry.example/firstlight"
    assert images == {f"{repository}@{digest}", f"{repository}:0.1.0-cuda"}
