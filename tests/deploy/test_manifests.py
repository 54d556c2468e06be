"""Manifests keep their schemas, and every setting and command that they run exists."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from feedcore import config
from feedcore.cli.app import root

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES_VERSION = "1.31"  # the oldest that is still maintained


def kubernetes() -> list[dict[str, Any]]:
    files = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    return [document for file in files for document in yaml.safe_load_all(file.read_text())]


@pytest.mark.parametrize(
    "manifest", kubernetes(), ids=lambda one: f"{one['kind']}/{one['metadata']['name']}"
)
def test_kubernetes_manifests_keep_the_schema(manifest: dict[str, Any]) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    kubernetes_validate.validate(manifest, KUBERNETES_VERSION, strict=True)


def test_a_manifest_with_a_slip_is_refused() -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    manifest = next(one for one in kubernetes() if one["kind"] == "StatefulSet")
    manifest["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, KUBERNETES_VERSION, strict=True)


def test_the_compose_file_keeps_the_schema() -> None:
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [*command, str(DEPLOY / "compose.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def pods() -> list[dict[str, Any]]:
    kinds = ("StatefulSet", "Deployment")
    return [one["spec"]["template"]["spec"] for one in kubernetes() if one["kind"] in kinds]


def test_every_pod_has_probes_limits_and_time_to_drain() -> None:
    grace_s = config.ServerSettings.model_fields["drain_grace_s"].default
    for pod in pods():
        assert pod["terminationGracePeriodSeconds"] > grace_s + 6
        for container in pod["containers"]:
            assert {"livenessProbe", "readinessProbe", "resources"} <= container.keys()
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
    budgets = [one["spec"] for one in kubernetes() if one["kind"] == "PodDisruptionBudget"]
    assert len(budgets) == len(pods())


def test_settings_in_manifests_are_known(tmp_path: Path) -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    names = {
        name
        for service in compose["services"].values()
        for name in service.get("environment", {})
        if name.startswith("FEEDCORE_")
    }
    names |= {
        variable["name"]
        for pod in pods()
        for container in (*pod["containers"], *pod.get("initContainers", []))
        for variable in container.get("env", [])
    }
    known = {config.environment_name(key) for key in config.KEYS} | config.ENVIRONMENT_SWITCHES
    assert names <= known
    (document,) = [one for one in kubernetes() if one["kind"] == "ConfigMap"]
    file = tmp_path / "feedcore.toml"
    file.write_text(document["data"]["feedcore.toml"])
    assert config.load(environ={}, file=file).settings.store.profile == "cluster"


def test_commands_in_manifests_exist() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    arguments = [
        service["command"]
        for service in compose["services"].values()
        if service.get("image") == "feedcore"
    ]
    arguments += [
        container["args"]
        for pod in pods()
        for container in (*pod["containers"], *pod.get("initContainers", []))
        if "command" not in container
    ]
    assert len(arguments) >= 4
    for name, *flags in arguments:
        command = root.commands[name]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {flag for flag in flags if flag.startswith("--")} <= options, name


def test_panels_of_a_dashboard_have_ids_of_their_own() -> None:
    for file in (DEPLOY / "grafana/dashboards").glob("*.json"):
        ids = [panel["id"] for panel in json.loads(file.read_text())["panels"]]
        assert len(ids) == len(set(ids))


def test_every_alert_says_what_to_do() -> None:
    (group,) = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert {"summary", "action"} <= rule["annotations"].keys(), rule["alert"]
