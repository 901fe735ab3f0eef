"""What a browser needs before and after a request from a page of another origin."""

from contextlib import contextmanager

import pytest
from starlette.testclient import TestClient

from models.errors import InputError
from service.inference.inference_service import InferenceService
from service.model.bundle import Bundle
from service.model.engine import Engine
from service.model.session import RuntimeSettings
from service.protocols import BadRequest
from service.settings import Settings
from service.web.app import App

pytest_plugins = ["serving"]  # the fixture tiny_bundle
ORIGIN, OTHER = "https://a.example", "https://c.example"
KEY, TOKEN = "secret-key-1", "admin-token-1"
WITH_KEY = {"Origin": ORIGIN, "X-API-Key": KEY}
TEXT = {"text": "good film"}
TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good film"]}
BINARY = {"inputs": [TENSOR], "parameters": {"binary_data_output": True}}
# readable without Access-Control-Expose-Headers: https://fetch.spec.whatwg.org/#cors-safelisted-response-header-name
SAFE = {"cache-control", "content-language", "content-length", "content-type", "expires", "last-modified", "pragma"}
NEVER = {
    "connection",
    "vary",
    "content-security-policy",
    "x-content-type-options",
}  # for the browser, not for scripts


@pytest.fixture(scope="module")
def engine(tiny_bundle):
    return Engine.open(Bundle.open(tiny_bundle), RuntimeSettings(device="cpu"))


class Kept:
    """In the place of BentoML's application."""

    async def __call__(self, scope, body, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": body})

    async def close(self):
        pass


@contextmanager
def serving(engine, **settings):
    inference = InferenceService(engine, Settings(device="cpu", **settings))
    with TestClient(App(inference, bentoml_app=Kept()), raise_server_exceptions=False) as client:
        client.inference = inference
        yield client


@pytest.fixture
def client(engine):
    settings = {"api_key": KEY, "admin_token": TOKEN, "max_body_bytes": 1000, "max_batch": 1}
    with serving(engine, cors_origins=f"{ORIGIN}, https://b.example", **settings) as running:
        yield running


def preflight(client, path, method="POST", origin=ORIGIN, headers="authorization,content-type,x-request-timeout-ms"):
    asked = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return client.options(path, headers=asked)


def listed(answer, name):
    return {one.strip().lower() for one in answer.headers[name].split(",")}


def readable(answer):
    """The headers that a script may read, and all that there are to read."""
    return SAFE | listed(answer, "access-control-expose-headers"), {
        name for name in answer.headers if not name.startswith("access-control-")
    } - NEVER


def test_the_preflight_of_every_route_is_answered_without_the_key(client):
    document = client.get("/openapi.json").json()
    assert "/classify" in document["paths"]
    for path, operations in document["paths"].items():
        for method in operations.keys() - {"parameters"}:
            answer = preflight(client, path, method.upper())
            assert answer.status_code == 204, path
            assert answer.headers["access-control-allow-origin"] == ORIGIN
            assert method in listed(answer, "access-control-allow-methods")
            assert {"authorization", "content-type", "x-request-timeout-ms"} <= listed(
                answer, "access-control-allow-headers"
            )
            assert "content-length" not in answer.headers
            assert not answer.content


def test_a_preflight_lets_nobody_in(client):
    for path in ("/v1/classify", "/info", "/admin/models", "/classify"):
        assert preflight(client, path).status_code == 204
        assert client.post(path, json=TEXT, headers={"Origin": ORIGIN}).status_code in (401, 405)
        options = client.options(path, headers={"Origin": ORIGIN})  # no preflight: it names no method
        assert options.status_code in (401, 405)


def test_any_header_may_be_sent_because_unknown_ones_have_no_effect(client):
    answer = preflight(client, "/v1/classify", headers="x-stainless-lang,traceparent")
    assert listed(answer, "access-control-allow-headers") == {"x-stainless-lang", "traceparent"}
    bare = client.options("/", headers={"Origin": ORIGIN, "Access-Control-Request-Method": "POST"})
    assert {"authorization", "x-api-key", "traceparent"} <= listed(bare, "access-control-allow-headers")


@pytest.mark.parametrize(
    ("path", "body", "headers", "code"),
    [
        ("/v1/classify", TEXT, {}, 200), ("/predict", {"inputs": "good film"}, {}, 200),
        ("/", {"inputs": "good film"}, {}, 200), ("/classify", TEXT, {}, 200),
        ("/v1/classify", TEXT, {"X-API-Key": "wrong"}, 401), ("/classify", TEXT, {"X-API-Key": "wrong"}, 401),
        ("/nowhere", TEXT, {}, 404), ("/info", TEXT, {}, 405), ("/v1/classify", {"text": "a" * 1000}, {}, 413),
        ("/v1/classify", {"texts": ["a", "b"]}, {}, 413), ("/v1/classify", TEXT, {"Content-Type": "text/x"}, 415),
        ("/v2/models/prunella/infer", BINARY, {}, 200),
        ("/v1/classify", {}, {}, 422), ("/v1/classify", TEXT, {"X-Request-Timeout-Ms": "soon"}, 422),
        ("/admin/models", {}, {"X-API-Key": TOKEN}, 422),
    ],
)  # fmt: skip
def test_a_page_can_read_every_answer_and_its_headers(client, path, body, headers, code):
    answer = client.post(path, json=body, headers={**WITH_KEY, **headers})
    assert answer.status_code == code, answer.text
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "origin" in listed(answer, "vary")
    may, there_are = readable(answer)
    assert there_are <= may


def test_a_page_can_read_the_number_of_windows(tiny_bundle):
    engine = Engine.open(Bundle.open(tiny_bundle), RuntimeSettings(device="cpu", windows=2))
    with serving(engine, cors_origins=ORIGIN) as client:
        answer = client.post("/predict", json={"inputs": "good film " * 30}, headers={"Origin": ORIGIN})
    assert answer.headers["x-windows"] == "2"
    may, there_are = readable(answer)
    assert there_are <= may


def test_a_page_can_read_when_to_try_again(client, monkeypatch):
    async def refuse(*_):
        raise BadRequest(429, "the queue is full", "Overloaded", 1.5)

    monkeypatch.setattr(client.inference, "answer", refuse)
    for path in ("/v1/classify", "/predict", "/"):
        answer = client.post(path, json=TEXT if path == "/v1/classify" else {"inputs": "a"}, headers=WITH_KEY)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert {"retry-after", "retry-after-ms"} <= readable(answer)[1] <= readable(answer)[0]


def test_a_page_can_read_that_the_server_failed(client, monkeypatch):
    def fail():
        raise RuntimeError("secrets of the house")

    monkeypatch.setattr(client.inference, "trouble", fail)
    answer = client.get("/readyz", headers={"Origin": ORIGIN})
    assert answer.status_code == 500
    assert answer.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize("path", ["/v1/classify", "/classify", "/admin/models", "/info"])
def test_other_origins_get_nothing(engine, client, path):
    with serving(engine, api_key=KEY) as closed:
        for running, origin in ((closed, ORIGIN), (client, OTHER), (client, ORIGIN + ":8443"), (client, "null")):
            found = preflight(running, path, origin=origin)
            assert found.status_code in (401, 404, 405)
            answer = running.post(path, json=TEXT, headers={"Origin": origin, "X-API-Key": KEY})
            for one in (found, answer, running.get(path)):
                assert not [name for name in one.headers if name.startswith("access-control-")]
                assert one.headers.get("vary") == (None if running is closed else "origin")


def test_a_star_lets_every_origin_in(engine):
    with serving(engine, cors_origins="*") as client:
        assert preflight(client, "/v1/classify", origin=OTHER).headers["access-control-allow-origin"] == OTHER


@pytest.mark.parametrize(
    "origins",
    ["a.example", "https://a.example/", "https://a.example/app", "https://A.example", "https://a b", "true"],
)
def test_what_no_browser_sends_as_an_origin_stops_the_start(origins):
    with pytest.raises(InputError, match="is not an origin"):
        Settings.from_environment({"PRUNELLA_CORS_ORIGINS": f"http://ok.example:3000, {origins}"})
