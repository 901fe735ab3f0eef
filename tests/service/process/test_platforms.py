"""What platforms set for the containers that they start: ports, routes, the argument `serve`."""

import pytest

from models.errors import InputError
from service.process import launch
from service.settings import Settings


@pytest.mark.parametrize(
    ("arguments", "variables", "host", "port"),
    [
        ([], {}, "127.0.0.1", 3000),
        (["serve"], {}, "0.0.0.0", 8080),
        (["serve"], {"SAGEMAKER_BIND_TO_PORT": "8081"}, "0.0.0.0", 8081),
        ([], {"AIP_HTTP_PORT": "7080"}, "0.0.0.0", 7080),
        (["serve", "--port", "9000", "--host", "::1"], {"AIP_HTTP_PORT": "7080"}, "::1", 9000),
    ],
)
def test_host_and_port(monkeypatch, arguments, variables, host, port):
    found = []
    for name in launch.PORT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch, "serve", lambda *called: found.append(called) or 0)
    assert launch.main(arguments) == 0
    assert found[0][1:3] == (host, port)


@pytest.mark.parametrize("value", ["http", "0", "65536", "-1", "80 80"])
def test_a_port_that_is_none_is_refused(monkeypatch, capsys, value):
    with pytest.raises(InputError, match="AIP_HTTP_PORT"):
        launch.platform_port({"AIP_HTTP_PORT": value})
    monkeypatch.setenv("AIP_HTTP_PORT", value)
    assert launch.main([]) == 2
    assert "AIP_HTTP_PORT" in capsys.readouterr().err


def test_sagemaker_mounts_the_bundle(monkeypatch, tmp_path):
    found = []
    monkeypatch.setattr(launch, "serve", lambda *called: found.append(called[0]) or 0)
    monkeypatch.setattr(launch, "SAGEMAKER_MODEL", str(tmp_path))
    monkeypatch.delenv("PRUNELLA_BUNDLE", raising=False)
    launch.main(["serve"])
    launch.main([])
    monkeypatch.setenv("PRUNELLA_BUNDLE", "other")
    launch.main(["serve"])
    assert found == [str(tmp_path), "prunella:latest", "other"]


def test_vertex_names_its_routes():
    variables = {
        "AIP_HEALTH_ROUTE": "/health-of-vertex",
        "AIP_PREDICT_ROUTE": "/v1/endpoints/1/deployedModels/2:predict",
    }
    found = Settings.from_environment(variables)
    assert (found.health_route, found.predict_route) == tuple(variables.values())
    ours = Settings.from_environment({**variables, "PRUNELLA_HEALTH_ROUTE": "/ours"})
    assert ours.health_route == "/ours"


@pytest.mark.parametrize("value", ["nlp", "/nlp/", "//", "/a b", "/é", "/a?b"])
def test_a_root_path_that_is_none_is_refused(value):
    with pytest.raises(InputError, match="root_path"):
        Settings.from_environment({"PRUNELLA_ROOT_PATH": value})
