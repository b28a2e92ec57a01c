"""The manifests: each overlay built by kustomize itself, and held against Kubernetes' schemas."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate.utils import latest_version, validate

from tests.conftest import Render, run
from tests.test_shipping import BIN, read
from tests.variants import REFERENCES, Answers

OVERLAYS = ("staging", "production")
OWN_JOBS: Answers = {"profile": "custom", "database": "postgresql", "job_store": "memory"}
VARIANTS = {
    **REFERENCES,
    "own-jobs": OWN_JOBS,
    "own-jobs-workers": OWN_JOBS | {"executor": "procrastinate"},
}


@pytest.fixture(params=VARIANTS)
def folder(render: Render, request: pytest.FixtureRequest) -> Path:
    answers: Answers = VARIANTS[request.param] | {"docker": True}  # it is held against compose
    return render(**answers, kubernetes=True)


@pytest.fixture(params=OVERLAYS)
def objects(folder: Path, request: pytest.FixtureRequest) -> list[Any]:
    overlay = folder / "kubernetes/overlays" / request.param
    return list(
        yaml.safe_load_all(run(str(BIN / "kubectl"), "kustomize", str(overlay), cwd=folder))
    )


def pods(objects: list[Any]) -> dict[str, Any]:
    """The specification of each kind of pod, by its component."""
    templates = [o["spec"]["template"] for o in objects if o["kind"] in ("Deployment", "Job")]
    return {
        template["metadata"]["labels"]["app.kubernetes.io/component"]: template["spec"]
        for template in templates
    }


def test_an_overlay_builds_what_kubernetes_takes(objects: list[Any]) -> None:
    for each in objects:
        validate(each, latest_version(), strict=True)


def test_every_manifest_is_used(folder: Path) -> None:
    base = folder / "kubernetes/base"
    named = read(base, "kustomization.yaml")["resources"]
    assert {*named, "kustomization.yaml"} == {path.name for path in base.iterdir()}


def test_there_are_the_processes_that_compose_runs(folder: Path, objects: list[Any]) -> None:
    services = read(folder, "compose.yaml")["services"]
    ours = {name: service for name, service in services.items() if "read_only" in service}
    found = pods(objects)
    assert set(found) == set(ours)
    for name, pod in found.items():
        (container,) = pod["containers"]
        assert container.get("command") == ours[name].get("command")
        assert container["image"].partition(":")[0].endswith(f"/{ours[name]['image']}")


def test_a_pod_may_do_little(objects: list[Any]) -> None:
    for pod in pods(objects).values():
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == 10001
        assert not pod["automountServiceAccountToken"]
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"mountPath": "/tmp", "name": "tmp"} in container["volumeMounts"]
        assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


def test_a_pod_is_given_the_time_to_stop(folder: Path, objects: list[Any]) -> None:
    settings = (folder / "app/core/settings.py").read_text(encoding="utf-8")
    (jobs,) = re.findall(r"shutdown_grace_seconds: float = Field\(default=(\d+)", settings)
    dockerfile = (folder / "Dockerfile").read_text(encoding="utf-8")
    (requests,) = re.findall(r'"--timeout-graceful-shutdown", "(\d+)"', dockerfile)
    for name, pod in pods(objects).items():
        if name == "web":
            before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
            assert pod["terminationGracePeriodSeconds"] > before + int(requests) + int(jobs)
        elif name == "worker":
            assert pod["terminationGracePeriodSeconds"] > int(jobs)


def test_the_probes_ask_the_routes_of_health(folder: Path, objects: list[Any]) -> None:
    routes = (folder / "app/core/health.py").read_text(encoding="utf-8")
    (container,) = pods(objects)["web"]["containers"]
    probes = {n: p["httpGet"] for n, p in container.items() if n.endswith("Probe")}
    for name, probe in probes.items():
        path = "/ready" if name == "readinessProbe" else "/live"
        assert probe == {"path": f"/health{path}", "port": "http"}
        assert f'@router.get("{path}"' in routes
    assert container["ports"] == [{"name": "http", "containerPort": 8000}]


def test_there_are_as_many_as_the_backends_allow(folder: Path, objects: list[Any]) -> None:
    chosen = read(folder, ".copier-answers.yml")
    alone = chosen["database"] == "sqlite" or chosen["lock_backend"] == "memory"
    (web,) = (
        o for o in objects if o["kind"] == "Deployment" and o["metadata"]["name"].endswith("-web")
    )
    production = "production" in str(objects[0])
    own_jobs = chosen["job_store"] == "memory"
    assert web["spec"]["replicas"] == (3 if production and not alone and not own_jobs else 1)
    assert (web["spec"]["strategy"].get("type") == "Recreate") == alone


def test_selectors_and_names_find_their_own_and_nobody_else(objects: list[Any]) -> None:
    project = {"app.kubernetes.io/name": "scheduler-service"}
    for each in objects:
        spec = each.get("spec", {})
        if each["kind"] == "Service":
            assert spec["selector"].items() >= project.items()
        elif each["kind"] == "NetworkPolicy":
            assert spec["podSelector"]["matchLabels"] == project
        elif each["kind"] in ("Deployment", "PodDisruptionBudget"):
            assert spec["selector"]["matchLabels"].items() > project.items()
    settings = [o["metadata"]["name"] for o in objects if o["kind"] == "ConfigMap"]
    for pod in pods(objects).values():
        (container,) = pod["containers"]
        assert [container["envFrom"][0]["configMapRef"]["name"]] == settings
