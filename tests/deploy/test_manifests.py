"""The files for KServe, BentoML and compose, and the dashboard."""

import json

import attrs
import kubernetes_validate
import yaml
from bentoml._internal.cloud.schemas.modelschemas import DeploymentServiceConfig
from rendering import DEPLOY, METRIC, ROOT, environment, exported_metrics

from service.process.launch import GRACE_SECONDS
from service.settings import Settings


def read(path: str) -> dict:
    return yaml.safe_load((DEPLOY / path).read_text())


def test_the_kserve_runtime_is_a_valid_pod_that_serves_the_downloaded_bundle():
    spec = read("kserve/serving-runtime.yaml")["spec"]
    pod = {"containers": spec["containers"], "volumes": spec["volumes"]}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}
    kubernetes_validate.validate(manifest, "1.37", strict=True)
    [container] = spec["containers"]
    assert container["name"] == "kserve-container"
    settings = Settings.from_environment(environment(container))
    assert settings.bundle == "/mnt/models"
    service = read("kserve/inference-service.yaml")["spec"]["predictor"]
    assert service["model"]["modelFormat"]["name"] == spec["supportedModelFormats"][0]["name"]
    assert service["model"]["protocolVersion"] in spec["protocolVersions"]
    assert service["terminationGracePeriodSeconds"] > settings.drain_delay_s + settings.drain_s + GRACE_SECONDS
    assert service["enableServiceLinks"] is False


def test_the_bentoml_deployment_names_our_service_and_settings():
    deployment = read("bentoml/deployment.yaml")
    [(name, service)] = deployment["services"].items()
    assert f'name="{name}"' in (ROOT / "service" / "service.py").read_text()
    assert service.keys() <= {field.name for field in attrs.fields(DeploymentServiceConfig)}
    Settings.from_environment({entry["name"]: entry["value"] for entry in deployment["envs"]})


def test_compose_mounts_files_that_exist_and_scrapes_the_server():
    compose = read("compose.yaml")
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            assert (DEPLOY / volume.split(":")[0]).is_file(), volume
    server = compose["services"]["prunella"]
    assert (server["read_only"], server["cap_drop"], server["tmpfs"]) == (True, ["ALL"], ["/tmp"])
    Settings.from_environment(server["environment"])
    [job] = read("compose/prometheus.yaml")["scrape_configs"]
    assert job["static_configs"][0]["targets"] == ["prunella:3000"]


def test_dashboard_and_kserve_name_metrics_that_the_service_exports():
    dashboard = json.loads((ROOT / "docs" / "grafana.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [json.dumps(read("kserve/inference-service.yaml"))]
    used = set(METRIC.findall(" ".join(queries)))
    assert len(used) > 10
    assert used <= exported_metrics()
