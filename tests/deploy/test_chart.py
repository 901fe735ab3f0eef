"""The chart, rendered by Helm's own library and checked against the schemas of Kubernetes, without a cluster."""

import json
import re
import shutil
import subprocess

import helm_python
import kubernetes_validate
import pytest
import yaml
from rendering import CHART, DIGEST, METRIC, environment, exported_metrics, render, server

from service.operations.prometheus_metrics import SECONDS
from service.process.launch import GRACE_SECONDS
from service.settings import Settings

S3 = {"source": "s3", "s3": {"uri": "s3://models/sentiment", "secretName": "aws", "endpoint": "https://minio:9000"}}
OCI = {"source": "oci", "oci": {"reference": f"registry.example/bundle@{DIGEST}", "path": "bundle/"}}
CASES = {
    "default": {},
    "digest": {"image": {"repository": "registry.example/prunella", "digest": DIGEST}},
    "volume": {"model": {"source": "volume", "volume": {"claimName": "models", "path": "sentiment"}}},
    "s3": {"model": S3},
    "oci": {"model": OCI},
    "s3 with a role": {"model": {"source": "s3", "s3": {"uri": "s3://models/sentiment"}}},
    "gpu": {
        "gpu": {"enabled": True, "nodeSelector": {"gpu": "h100"}, "runtimeClassName": "nvidia"},
        "nodeSelector": {"disk": "ssd"},
    },
    "ipv6": {"args": ["python", "-m", "service.process.launch", "--host", "::"]},
    "grpc": {"settings": {"port_grpc": 8001}},
    "load balancer": {"service": {"type": "LoadBalancer", "annotations": {"internal": "true"}}},
    "half at once": {"podDisruptionBudget": {"maxUnavailable": "50%"}, "priorityClassName": "high"},
    "keda": {"autoscaling": {"kind": "keda"}},
    "hpa": {"autoscaling": {"kind": "hpa"}},
    "monitoring": {"monitoring": {"enabled": True, "labels": {"release": "prometheus"}}},
    "secrets": {"apiKey": {"secretName": "keys"}, "adminToken": {"secretName": "keys"}},
    "openshift": {"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}},
    "peers": {"networkPolicy": {"from": [{"podSelector": {}}], "egress": [{"ports": [{"port": 4318}]}]}},
    "bare": {
        "topologySpreadConstraints": False,
        "podDisruptionBudget": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "serviceAccount": {"create": False, "name": "mine"},
    },
    "settings": {
        "settings": {
            "max_body_bytes": 2000000,
            "drain_delay_s": 2.5,
            "drain_s": 40,
            "access_log": True,
            "log": "text",
        },
        "extraEnv": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"}],
        "podAnnotations": {"a": "b"},
        "podLabels": {"c": "d"},
        "imagePullSecrets": [{"name": "registry"}],
        "tolerations": [{"key": "spot", "operator": "Exists"}],
    },
}
WRONG = {  # and what the message names
    "half a core": ({"resources": {"cpu": 0.5, "memory": "1Gi"}}, "cpu"),
    "cores as text": ({"resources": {"cpu": "500m", "memory": "1Gi"}}, "cpu"),
    "no memory": ({"resources": {"cpu": 2, "memory": "0Gi"}}, "memory"),
    "unknown value": ({"replicaCount": 3}, "replicaCount"),
    "no digest": ({"image": {"digest": "latest"}}, "digest"),
    "no claim": ({"model": {"source": "volume"}}, "claimName"),
    "no bucket": ({"model": {"source": "s3"}}, "uri"),
    "no reference": ({"model": {"source": "oci"}}, "reference"),
    "unknown source": ({"model": {"source": "git"}}, "source"),
    "endpoint without scheme": ({"model": {**S3, "s3": {**S3["s3"], "endpoint": "minio:9000"}}}, "endpoint"),
    "unknown setting": ({"settings": {"max_wait": 50}}, "/settings': additional properties 'max_wait'"),
    "key in the open": ({"settings": {"api_key": "open-sesame"}}, "settings"),
    "key in the open, elsewhere": ({"extraEnv": [{"name": "PRUNELLA_API_KEY", "value": "x"}]}, "apiKey.secretName"),
    "number in the environment": ({"extraEnv": [{"name": "OTEL_X", "value": 1}]}, "extraEnv"),
    "bundle twice": ({"settings": {"bundle": "/elsewhere"}}, "settings"),
    "root": ({"podSecurityContext": {"runAsUser": 0}}, "runAsUser"),
    "root by another name": ({"podSecurityContext": {"runAsNonRoot": False}}, "runAsNonRoot"),
    "no bucket boundary": ({"monitoring": {"waitSeconds": 0.03}}, "waitSeconds"),
    "unknown scaler": ({"autoscaling": {"kind": "vpa"}}, "kind"),
    "more at least than at most": ({"autoscaling": {"kind": "hpa", "minReplicas": 11}}, "minReplicas is 11"),
    "label of the selector": ({"podLabels": {"app.kubernetes.io/name": "x"}}, "podLabels"),
    "label that is no text": ({"nodeSelector": {"gpu": True}}, "nodeSelector"),
    "budget": ({"podDisruptionBudget": {"maxUnavailable": "some"}}, "maxUnavailable"),
    "one port for two": ({"settings": {"port_grpc": 3000}}, "port_grpc is 3000"),
    "toleration as text": ({"tolerations": ["gpu"]}, "tolerations"),
    "secret without name": ({"imagePullSecrets": [{"secret": "x"}]}, "imagePullSecrets"),
}


def test_helm_lint_has_no_complaints():
    found = helm_python.lint(str(CHART))
    assert found["errors"] == []


@pytest.mark.parametrize("version", ["1.37", "1.33"])
@pytest.mark.parametrize("case", CASES)
def test_manifests_are_valid_in_kubernetes(case, version):
    manifests = render(CASES[case])
    own = [m for m in manifests.values() if not re.search(r"keda|coreos", m["apiVersion"])]
    assert {"Deployment", "Service", "Pod"} <= {manifest["kind"] for manifest in own}
    for manifest in own:
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("case", WRONG)
def test_wrong_values_are_refused(case):
    values, words = WRONG[case]
    with pytest.raises(helm_python.HelmError) as error:
        render(values)
    assert words in str(error.value)


@pytest.mark.parametrize("case", CASES)
def test_pods_have_no_rights(case):
    manifests = render(CASES[case])
    for pod in (manifests["Deployment"]["spec"]["template"]["spec"], manifests["Pod"]["spec"]):
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert isinstance(container["resources"]["limits"]["cpu"], int)


@pytest.mark.parametrize("case", CASES)
def test_a_pod_may_have_cores_of_its_own(case):
    """The static CPU manager gives them to pods whose containers, the first ones too, request what they may use."""
    pod = render(CASES[case])["Deployment"]["spec"]["template"]["spec"]
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_the_settings_that_are_accepted_are_those_of_the_server():
    schema = json.loads((CHART / "values.schema.json").read_text())
    names = list(schema["properties"]["settings"]["properties"])
    assert names == sorted(set(Settings.model_fields) - {"bundle", "api_key", "admin_token"})


def test_the_network_policy_opens_what_the_model_needs():
    def ports(case):
        rules = render(CASES[case])["NetworkPolicy"]["spec"]["egress"]
        return {port["port"] for rule in rules for port in rule["ports"]}

    assert ports("s3") == {53, 443, 9000}  # its endpoint is https://minio:9000
    assert ports("s3 with a role") == {53, 443, 80}  # the last one for the credentials of the node only
    peers = render(CASES["s3 with a role"])["NetworkPolicy"]["spec"]["egress"][1]["to"]
    assert {peer["ipBlock"]["cidr"] for peer in peers} == {"169.254.169.254/32", "169.254.170.23/32"}
    assert not render()["NetworkPolicy"]["spec"]["egress"]


def test_arguments_replace_those_of_the_image():
    assert server(render(CASES["ipv6"]))["args"] == CASES["ipv6"]["args"]
    assert "args" not in server(render())


def test_the_port_of_grpc_is_open_everywhere():
    manifests = render(CASES["grpc"])
    assert [port["containerPort"] for port in server(manifests)["ports"]] == [3000, 8001]
    assert [port["port"] for port in manifests["Service"]["spec"]["ports"]] == [80, 8001]
    admitted = manifests["NetworkPolicy"]["spec"]["ingress"][0]["ports"]
    assert [port["port"] for port in admitted] == ["http", "grpc"]


@pytest.mark.parametrize("case", CASES)
def test_a_pod_has_more_time_than_its_drain_takes(case):
    manifests = render(CASES[case])
    pod, container = manifests["Deployment"]["spec"]["template"]["spec"], server(manifests)
    settings = Settings.from_environment(environment(container))
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    needed = pause + settings.drain_delay_s + settings.drain_s + GRACE_SECONDS
    assert pod["terminationGracePeriodSeconds"] > needed


def test_settings_reach_the_server_as_they_were_written():
    variables = environment(server(render(CASES["settings"])))
    settings = Settings.from_environment(variables)
    assert settings.model_dump(include=set(CASES["settings"]["settings"])) == CASES["settings"]["settings"]
    assert variables["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector:4318"


def test_the_image_is_named_by_its_digest():
    assert server(render(CASES["digest"]))["image"] == f"registry.example/prunella@{DIGEST}"
    assert server(render())["image"] == "prunella:0.1.0"
    assert server(render({"image": {"tag": "x", "digest": DIGEST}}))["image"] == f"prunella@{DIGEST}"


def test_each_source_of_the_model_mounts_it():
    assert "PRUNELLA_BUNDLE" not in environment(server(render()))
    for case, folder in (("volume", "/bundle/sentiment"), ("s3", "/bundle"), ("oci", "/bundle/bundle")):
        manifests = render(CASES[case])
        container = server(manifests)
        assert environment(container)["PRUNELLA_BUNDLE"] == folder
        assert {"name": "bundle", "mountPath": "/bundle", "readOnly": True} in container["volumeMounts"]
        volumes = {v["name"]: v for v in manifests["Deployment"]["spec"]["template"]["spec"]["volumes"]}
        assert {"bundle", "tmp"} == volumes.keys()


def test_gpu_pods_go_to_gpu_nodes_and_refuse_another_device():
    manifests = render(CASES["gpu"])
    pod, container = manifests["Deployment"]["spec"]["template"]["spec"], server(manifests)
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod["nodeSelector"] == {"gpu": "h100", "disk": "ssd"}
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert pod["runtimeClassName"] == "nvidia"
    assert (
        "runtimeClassName"
        not in render({"gpu": {"runtimeClassName": "nvidia"}})["Deployment"]["spec"]["template"]["spec"]
    )
    settings = Settings.from_environment(environment(container))
    assert (settings.device, settings.require_device) == ("cuda", True)


def test_an_autoscaler_owns_the_number_of_replicas():
    assert render()["Deployment"]["spec"]["replicas"] == 2
    for case, kind in (("keda", "ScaledObject"), ("hpa", "HorizontalPodAutoscaler")):
        manifests = render(CASES[case])
        assert "replicas" not in manifests["Deployment"]["spec"]
        assert manifests[kind]["spec"]["scaleTargetRef"]["name"] == manifests["Deployment"]["metadata"]["name"]


def test_the_network_policy_admits_the_pod_of_helm_test():
    manifests = render(CASES["peers"])
    peers = manifests["NetworkPolicy"]["spec"]["ingress"][0]["from"]
    labels = manifests["Pod"]["metadata"]["labels"]
    assert {"podSelector": {"matchLabels": labels}} in peers
    assert (
        not manifests["Service"]["spec"]["selector"].items() <= labels.items()
    )  # and the service does not choose it


def test_rules_and_scalers_name_metrics_that_the_service_exports():
    text = yaml.dump_all(render({**CASES["monitoring"], **CASES["keda"]}).values())
    used = set(METRIC.findall(text))
    assert {"prunella_predicted_wait_seconds", "prunella_queue_depth", "prunella_requests_total"} <= used
    assert used <= exported_metrics()
    assert {float(bound) for bound in re.findall(r'le="([^"]+)"', text)} <= set(SECONDS)


def test_alerts_burn_the_budget_at_the_rates_of_the_values():
    values = {"enabled": True, "availability": 0.99, "waitSeconds": 0.1}
    rules = render({"monitoring": values})["PrometheusRule"]["spec"]["groups"][0]["rules"]
    bounds = {name: [] for name in ("PrunellaErrors", "PrunellaSlow")}
    for rule in rules:
        bounds.get(rule["alert"], []).extend(map(float, re.findall(r"> ([\d.]+)", rule["expr"])))
    assert bounds == {name: [0.144, 0.144, 0.06, 0.06] for name in bounds}
    assert 'le="0.1"' in next(rule["expr"] for rule in rules if rule["alert"] == "PrunellaSlow")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool (Debian package prometheus)")
def test_prometheus_raises_the_alert_for_errors_and_no_other(tmp_path):
    rules, tests = tmp_path / "rules.yaml", tmp_path / "tests.yaml"
    rules.write_text(yaml.dump(render(CASES["monitoring"])["PrometheusRule"]["spec"]))
    labels = 'namespace="prod",service="demo-prunella"'
    values = {  # of each minute: 2 % of the answers are 500, and 0.5 % of the requests wait too long
        f'prunella_requests_total{{{labels},code="200"}}': "0+980x400",
        f'prunella_requests_total{{{labels},code="500"}}': "0+20x400",
        f'prunella_queue_seconds_bucket{{{labels},le="0.05"}}': "0+995x400",
        f"prunella_queue_seconds_count{{{labels}}}": "0+1000x400",
        f"prunella_workers{{{labels}}}": "1x400",
        f"prunella_device_fallback{{{labels}}}": "0x400",
    }
    alerts = {rule["alert"]: [] for rule in yaml.safe_load(rules.read_text())["groups"][0]["rules"]}
    for rate, severity in (("14.4", "critical"), ("6", "warning")):
        summary = f"The share of answers with status 5xx spends the error budget {rate} times too fast."
        alerts["PrunellaErrors"] += [{"exp_labels": {"severity": severity}, "exp_annotations": {"summary": summary}}]
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": numbers} for name, numbers in values.items()],
        "alert_rule_test": [{"eval_time": "6h", "alertname": k, "exp_alerts": v} for k, v in alerts.items()],
    }
    tests.write_text(yaml.dump({"rule_files": [str(rules)], "tests": [case]}))
    subprocess.run(["promtool", "test", "rules", tests], check=True)


def test_two_releases_do_not_share_anything():
    names = [{m["metadata"]["name"] for m in render(release=release).values()} for release in ("demo", "prunella-b")]
    assert not names[0] & names[1]
    selectors = [str(render(release=release)["Service"]["spec"]["selector"]) for release in ("demo", "prunella-b")]
    assert selectors[0] != selectors[1]
