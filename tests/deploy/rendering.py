"""Rendering of the chart, and what its tests and those of the other manifests share."""

import re
from pathlib import Path
from typing import Any

import helm_python
import yaml
from prometheus_client import generate_latest

from service.operations.prometheus_metrics import Telemetry

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "prunella"
DIGEST = "sha256:" + "5" * 64
METRIC = re.compile(r"\b(?:prunella|process)_[a-z_]+")


def render(values: dict[str, Any] | None = None, release: str = "demo") -> dict[str, dict[str, Any]]:
    """Return the manifests of the chart by kind; the pod of `helm test` is `Pod`."""
    with helm_python.Chart.load(str(CHART)) as chart:
        files = chart.render(values or {}, name=release, namespace="prod")
    texts = [text for path, text in files.items() if path.endswith(".yaml")]
    documents = [document for text in texts for document in yaml.safe_load_all(text) if document]
    kinds = {document["kind"]: document for document in documents}
    assert len(kinds) == len(documents)
    return kinds


def server(manifests: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the server's container."""
    return manifests["Deployment"]["spec"]["template"]["spec"]["containers"][0]


def environment(container: dict[str, Any]) -> dict[str, str]:
    """Return the variables of a container that have a value in the manifest."""
    return {entry["name"]: entry["value"] for entry in container.get("env", []) if "value" in entry}


def exported_metrics() -> set[str]:
    """Return the names of all series that the service exports."""
    telemetry = Telemetry()
    telemetry.count("native", 200)
    telemetry.shed.labels("queue")
    telemetry.swaps.labels("done")
    telemetry.info.labels("id", "name", "variant", "device")
    return set(re.findall(r"^([a-z_]+)[ {]", generate_latest(telemetry.registry).decode(), re.MULTILINE))
