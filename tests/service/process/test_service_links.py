"""Variables that Kubernetes and Docker make for a service whose name begins as our settings do."""

import json
import logging
import os
from pathlib import Path

import pytest
from container_steps import check
from test_server_process import BENTOML, PRUNELLA, free_port, run, running

from models.errors import InputError
from service.process.service_links import log_service_links, service_links
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
pytest_plugins = ["serving"]  # the fixture tiny_bundle


def kubernetes(service, ip="10.96.0.12", ports=(("http", 3000, "tcp"),)):
    """Return what the kubelet makes for a Service: k8s.io/kubernetes/pkg/kubelet/envvars."""
    name = service.upper().replace("-", "_")
    first = ports[0]
    made = {f"{name}_SERVICE_HOST": ip, f"{name}_SERVICE_PORT": str(first[1])}
    host = f"[{ip}]" if ":" in ip else ip
    made[f"{name}_PORT"] = f"{first[2]}://{host}:{first[1]}"
    for port_name, number, protocol in ports:
        if port_name:
            made[f"{name}_SERVICE_PORT_{port_name.upper().replace('-', '_')}"] = str(number)
        prefix = f"{name}_PORT_{number}_{protocol.upper()}"
        made |= {
            prefix: f"{protocol}://{host}:{number}", f"{prefix}_PROTO": protocol, f"{prefix}_PORT": str(number),
            f"{prefix}_ADDR": ip,
        }  # fmt: skip
    return made


DOCKER = {
    "PRUNELLA_NAME": "/web/prunella", "PRUNELLA_PORT": "tcp://172.17.0.5:3000",
    "PRUNELLA_PORT_3000_TCP": "tcp://172.17.0.5:3000", "PRUNELLA_PORT_3000_TCP_ADDR": "172.17.0.5",
    "PRUNELLA_PORT_3000_TCP_PORT": "3000", "PRUNELLA_PORT_3000_TCP_PROTO": "tcp",
    "PRUNELLA_PORT_8000_TCP_START": "tcp://172.17.0.5:8000", "PRUNELLA_PORT_8000_TCP_END": "tcp://172.17.0.5:8010",
    "PRUNELLA_PORT_8000_TCP_PORT_START": "8000", "PRUNELLA_PORT_8000_TCP_PORT_END": "8010",
    "PRUNELLA_ENV_PYTHON_VERSION": "3.11.7", "PRUNELLA_ENV_PRUNELLA_MAX_BATCH": "x",
}  # fmt: skip
CASES = {
    "a Service": kubernetes("prunella"),
    "two ports": kubernetes("prunella", ports=(("http", 3000, "tcp"), ("grpc-web", 50051, "udp"))),
    "a port without a name": kubernetes("prunella", ports=(("", 80, "tcp"),)),
    "IPv6": kubernetes("prunella", "fd00:10:96::c"),
    "SCTP": kubernetes("prunella", ports=(("s", 9, "sctp"),)),
    "a canary": kubernetes("prunella-canary"),
    "the name of a setting": kubernetes("prunella-max-batch")
    | kubernetes("prunella-log")
    | kubernetes("prunella-port"),
    "the end of a variable": kubernetes("prunella-service") | kubernetes("prunella-name"),
    "several": kubernetes("prunella") | kubernetes("prunella-v2-blue") | kubernetes("prunella-metrics"),
    "a Docker link": DOCKER,
    "a Docker link of another alias": {k.replace("PRUNELLA", "PRUNELLA_DB", 1): v for k, v in DOCKER.items()},
}


@pytest.mark.parametrize("links", CASES.values(), ids=CASES)
def test_links_are_ignored_and_settings_beside_them_are_read(links, caplog):
    told = {**links, "PRUNELLA_MAX_BATCH": "5", "PRUNELLA_DEVICE": "cpu", "PRUNELLA_STORE": "x", "PATH": "/bin"}
    assert service_links(told, "PRUNELLA") == set(links)
    assert Settings.from_environment(told) == Settings(max_batch=5, device="cpu")
    with caplog.at_level(logging.INFO, "prunella"):
        log_service_links(told, "PRUNELLA")
    (record,) = caplog.records
    assert all(name in record.getMessage() for name in links)


def test_no_setting_looks_like_a_link():
    for name in Settings.model_fields:
        for value in ("1", "tcp://10.0.0.1:80", "10.0.0.1", "/web/prunella", "tcp"):
            assert not service_links({f"PRUNELLA_{name.upper()}": value}, "PRUNELLA")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("PRUNELLA_MAX_BATCHES", "5", "did you mean PRUNELLA_MAX_BATCH?"),
        ("PRUNELLA_KEEPALIVE_S", "5", "did you mean PRUNELLA_KEEP_ALIVE_S?"),
        ("PRUNELLA_APIKEY", "secret-key-1", "did you mean PRUNELLA_API_KEY?"),
        ("PRUNELLA_api_key", "secret-key-1", "did you mean PRUNELLA_API_KEY?"),
        ("PRUNELLA_PORT", "3000", "--port"), ("PRUNELLA_HOST", "0.0.0.0", "--host"),
        ("PRUNELLA_SERVICE_PORT", "http://10.0.0.1:80", "unknown setting"), ("PRUNELLA_NAME", "x", "unknown setting"),
        ("PRUNELLA_ENV_PATH", "/bin", "unknown setting"), ("PRUNELLA_PORT_3000_TCP_ADDRESS", "10.0.0.1", "unknown"),
        ("PRUNELLA_", "x", "unknown setting"),
    ],
)  # fmt: skip
def test_what_is_neither_a_link_nor_a_setting_stops_the_start(variable, value, said):
    with pytest.raises(InputError, match=variable) as error:
        Settings.from_environment({**CASES["several"], variable: value})
    assert said in str(error.value)
    assert "secret-key-1" not in str(error.value)


def test_no_links_no_line(caplog):
    with caplog.at_level(logging.INFO, "prunella"):
        log_service_links({"PRUNELLA_DEVICE": "cpu", "KUBERNETES_PORT": "tcp://10.0.0.1:443"}, "PRUNELLA")
    assert not caplog.records


@pytest.mark.parametrize("way", ["prunella", "bentoml"])
def test_a_server_starts_beside_a_service_of_its_name_and_says_so_once(tiny_bundle, tmp_path, way):
    command = {
        "prunella": [*PRUNELLA, "serve", str(tiny_bundle)],
        "bentoml": [*BENTOML, "serve", "--host", "127.0.0.1"],
    }[way]
    links = CASES["several"] | CASES["a Docker link"]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PRUNELLA_", "BENTOML_"))}
    kept |= {"BENTOML_HOME": str(tmp_path / "bentoml"), "PYTHONPATH": str(ROOT)}
    variables = {**kept, **links, "PRUNELLA_BUNDLE": str(tiny_bundle), "PRUNELLA_DEVICE": "cpu"}
    log = tmp_path / "log"
    with running(command, variables, log) as (_, url):
        check(url, tiny_bundle)
    lines = [line for line in log.read_text().splitlines() if "PRUNELLA_SERVICE_HOST" in line]
    (line,) = lines
    assert json.loads(line)["level"] == "info"
    wrong = run([*command, "--port", str(free_port())], {**variables, "PRUNELLA_MAX_BATCHES": "5"})
    assert wrong.returncode == 2
    assert "did you mean PRUNELLA_MAX_BATCH?" in wrong.stderr


def test_nothing_else_reads_such_variables():
    """`prunella serve` and the supervisor read variables by their whole name, and none of them is link-shaped."""
    names = set()
    for path in (*ROOT.glob("prunella/**/*.py"), *ROOT.glob("service/**/*.py"), *ROOT.glob("models/**/*.py")):
        names |= {word for word in path.read_text().split('"') if word.startswith("PRUNELLA_") and word.isupper()}
    assert names >= {"PRUNELLA_BUNDLE", "PRUNELLA_WORKERS", "PRUNELLA_DEVICE"}
    assert not service_links(
        dict.fromkeys(names - {"PRUNELLA_PORT", "PRUNELLA_HOST"}, "tcp://10.0.0.1:80"), "PRUNELLA"
    )
