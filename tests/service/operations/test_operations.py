"""The application in this process: keys, deadlines, changes of the model, protocols, what it says of itself."""

import json
import logging
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from http import HTTPStatus

import pytest
from bentoml.exceptions import BentoMLException
from bundles import copy_with_other_golden_logits
from starlette.testclient import TestClient
from watching import wait_until

from models.store.folder import MANIFEST, Manifest, ModelFolder, record_files
from models.task import Task
from service.inference.inference_service import InferenceService
from service.model.bundle import GOLDEN, Bundle
from service.model.engine import Engine
from service.model.session import RuntimeSettings
from service.operations.logs import CarefulHandler, JsonFormatter, is_no_client_error
from service.operations.model_slots import meaning
from service.settings import Settings
from service.web.app import App

pytest_plugins = ["serving"]  # the fixtures tiny_bundle and pair_bundle
ADMIN = {"Authorization": "Bearer admin-token-1"}
TEXT = {"text": "good film"}


@pytest.fixture(scope="module")
def engine(tiny_bundle):
    return Engine.open(Bundle.open(tiny_bundle), RuntimeSettings(device="cpu"))


@contextmanager
def serving(engine, **settings):
    inference = InferenceService(engine, Settings(device="cpu", **settings))
    with TestClient(App(inference), raise_server_exceptions=False) as client:
        client.inference = inference
        yield client


@pytest.fixture
def client(engine):
    with serving(engine, admin_token="admin-token-1") as running:
        yield running


@pytest.fixture(scope="module")
def other_bundle(tiny_bundle, tmp_path_factory):
    """The same model under another id."""
    target = tmp_path_factory.mktemp("other") / "bundle"
    shutil.copytree(tiny_bundle, target)
    with (target / GOLDEN).open("a") as file:  # JSON with one more line break is the same JSON
        file.write("\n")
    manifest = Manifest.read(target / MANIFEST)
    manifest.model_copy(update={"files": record_files(target)}).write(target / MANIFEST)
    return target


def metric(client, name):
    return next(float(line.split()[-1]) for line in client.get("/metrics").text.splitlines() if line.startswith(name))


# who is let in


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, 401), ({"Authorization": "Bearer wrong-key"}, 401), ({"Authorization": "Basic secret-key-1"}, 401),
        ({"X-API-Key": "secret"}, 401), ({"Authorization": "Bearer secret-key-1"}, 200),
        ({"authorization": "bearer secret-key-1"}, 200), ({"X-API-Key": "secret-key-1"}, 200),
    ],
)  # fmt: skip
def test_a_key_is_wanted_where_one_is_set(engine, headers, code, caplog):
    with serving(engine, api_key="secret-key-1", access_log=True) as client, caplog.at_level(logging.DEBUG):
        for path in ("/v1/classify", "/predict", "/"):
            body = TEXT if path == "/v1/classify" else {"inputs": "good film"}
            answer = client.post(path, json=body, headers=headers)
            assert answer.status_code == code
            assert code == 200 or answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/info", headers=headers).status_code == code
        assert client.get("/readyz").status_code == client.get("/metrics").status_code == 200
    assert "secret-key-1" not in caplog.text + repr(client.inference.settings)


# deadlines, and a runner that is stuck


class Blocked:
    """An engine whose model does not come back until it is let go."""

    def __init__(self, engine):
        self._engine, self.let_go = engine, threading.Event()

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def infer(self, encoded):
        self.let_go.wait(5)
        return self._engine.infer(encoded)


def test_a_stuck_runner_fails_livez_and_deadlines_hold(engine):
    blocked = Blocked(engine)
    with serving(blocked, stuck_after_s=0.1) as client:
        first = threading.Thread(target=client.post, args=("/v1/classify",), kwargs={"json": TEXT})
        first.start()
        try:
            answer = client.post("/v1/classify", json=TEXT, headers={"X-Request-Timeout-Ms": "150"})
            assert answer.status_code in (429, 504), answer.text  # refused, or dropped while it waited
            assert client.get("/livez").status_code == 503
            assert "has run one batch for" in client.get("/livez").json()["status"]
            assert client.get("/readyz").status_code == 503
        finally:
            blocked.let_go.set()
            first.join()
        wait_until(lambda: client.get("/livez").status_code == 200, 5)  # the other text's runner wakes a little later
        assert client.post("/v1/classify", json=TEXT).status_code == 200


@pytest.mark.parametrize("value", ["soon", "-1", "0", "5e-324", "nan", "1e9", ""])
def test_a_deadline_that_is_none_is_refused(client, value):
    answer = client.post("/v1/classify", json=TEXT, headers={"X-Request-Timeout-Ms": value})
    assert answer.status_code == 422
    assert "X-Request-Timeout-Ms" in answer.json()["error"]


class Failing(Blocked):
    """An engine whose model fails."""

    def infer(self, encoded):
        raise RuntimeError("secrets of the house")


def test_a_model_that_fails_is_500_without_a_stack_and_the_runner_lives_on(engine, caplog):
    with serving(Failing(engine)) as client:
        for _ in range(2):
            answer = client.post("/v1/classify", json=TEXT)
            assert answer.status_code == 500
            assert set(answer.json()) == {"error", "kind"}
            assert "secrets" not in answer.text
        assert client.get("/livez").status_code == 200
        assert metric(client, "prunella_model_failures_total") == 2
    assert "secrets of the house" in caplog.text


# changes of the model


def test_admin_is_closed_without_its_token(engine, client):
    refused = client.get("/admin/models")
    assert refused.status_code == 401
    assert refused.json()["error"].startswith("admin token missing or wrong")
    assert client.post("/admin/models", json={"bundle": "x"}, headers={"X-API-Key": "secret"}).status_code == 401
    with serving(engine) as closed:
        assert closed.get("/admin/models", headers=ADMIN).status_code == 404


def test_swap_and_roll_back(client, engine, other_bundle):
    before = client.post("/v1/classify", json=TEXT).json()
    swapped = client.post("/admin/models", json={"bundle": str(other_bundle)}, headers=ADMIN)
    assert swapped.status_code == 200, swapped.text
    after, other = client.post("/v1/classify", json=TEXT).json(), ModelFolder.open(other_bundle).id
    assert (before["model"], after["model"]) == (engine.bundle.id, other)
    assert other != engine.bundle.id
    assert after["predictions"] == before["predictions"]
    assert client.get("/info").json()["id"] == other
    assert f'id="{other}"' in client.get("/metrics").text
    told = client.get("/admin/models", headers=ADMIN).json()
    assert (told["current"]["id"], told["previous"]["id"]) == (other, engine.bundle.id)
    assert client.post("/admin/rollback", headers=ADMIN).status_code == 200
    assert client.post("/v1/classify", json=TEXT).json()["model"] == engine.bundle.id


def test_a_bundle_that_may_not_serve_changes_nothing(client, engine, tiny_bundle, pair_bundle, tmp_path):
    spoiled = copy_with_other_golden_logits(tiny_bundle, tmp_path / "spoiled")
    altered = tmp_path / "altered"
    shutil.copytree(tiny_bundle, altered)
    with (altered / "onnx" / "cpu-int8.onnx").open("ab") as file:
        file.write(b"x")
    for folder, code, said in [
        (spoiled, 409, "golden texts"), (altered, 422, "cpu-int8.onnx"), (pair_bundle, 422, "other_labels"),
        (tmp_path / "nowhere", 422, "neither a bundle folder nor a tag"),
    ]:  # fmt: skip
        answer = client.post("/admin/models", json={"bundle": str(folder)}, headers=ADMIN)
        assert (answer.status_code, said in answer.text) == (code, True), answer.text
    assert client.post("/admin/rollback", headers=ADMIN).status_code == 422  # there is none before
    assert client.post("/admin/models", json={"bundles": "x"}, headers=ADMIN).status_code == 422
    assert client.post("/v1/classify", json=TEXT).json()["model"] == engine.bundle.id


@pytest.mark.parametrize("other", ["order", "more labels", "pair", "kind"])
def test_a_swap_may_not_change_what_answers_mean(engine, tiny_bundle, tmp_path, other):
    task = engine.bundle.task
    changed = task.model_copy(
        update={
            "order": {"labels": task.labels[::-1]},
            "more labels": {"labels": (*task.labels, "other")},
            "pair": {"pair": True},
            "kind": {"kind": "multi"},
        }[other]
    )
    folder = tmp_path / "other"
    shutil.copytree(tiny_bundle, folder)
    changed.write(folder / "task.json")
    manifest = Manifest.read(folder / MANIFEST)
    manifest.model_copy(update={"files": record_files(folder)}).write(folder / MANIFEST)
    with serving(engine, admin_token="admin-token-1") as client:
        for path in ("/admin/models", "/admin/shadow"):
            answer = client.post(path, json={"bundle": str(folder)}, headers=ADMIN)
            assert (answer.status_code, "other_labels" in answer.text) == (422, True), answer.text
        assert client.post("/v1/classify", json=TEXT).json()["model"] == engine.bundle.id


def test_the_same_labels_of_another_kind_are_another_meaning():
    single, multi = Task(labels=("a", "b")), Task(kind="multi", labels=("a", "b"))
    assert meaning(single) != meaning(multi)
    assert meaning(Task(kind="multi", labels=("a",))) != meaning(Task(kind="regression", labels=("a",)))
    assert meaning(multi) == meaning(Task(kind="multi", labels=("a", "b"), thresholds=(0.1, 0.9), max_tokens=64))


def test_bentomls_routes_need_no_bundle_but_the_one_that_is_served(tiny_bundle, tmp_path):
    """The tag or folder of the settings may be gone when the first request comes."""
    code = f"""
import os
os.environ["PRUNELLA_BUNDLE"] = "gone:latest"
os.environ["BENTOML_HOME"] = {str(tmp_path)!r}
from pathlib import Path
from starlette.testclient import TestClient
from service.web.app import App
from service.web.bento_routes import BentoRoutes
from service.model.bundle import Bundle
from service.inference.inference_service import InferenceService
from service.model.engine import Engine
from service.settings import Settings
desk = InferenceService(Engine.open(Bundle.open(Path({str(tiny_bundle)!r}))), Settings.from_environment())
with TestClient(App(desk, None, BentoRoutes(desk))) as client:
    answer = client.post("/classify", json={{"texts": ["good film"]}})
    print(answer.status_code)
    print(client.get("/readyz").status_code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["200", "200"], done.stderr


def test_a_candidate_goes_with_the_model_that_it_is_compared_with(client, other_bundle, pair_bundle):
    assert client.post("/admin/shadow", json={"bundle": str(other_bundle)}, headers=ADMIN).status_code == 200
    asked = {"bundle": str(pair_bundle), "other_labels": True}
    assert client.post("/admin/models", json=asked, headers=ADMIN).status_code == 200
    told = client.get("/admin/models", headers=ADMIN).json()
    assert (told["candidate"], told["share"]) == (None, 0.0)


def test_a_candidate_in_the_shadow_is_compared_and_not_seen(client, engine, other_bundle):
    asked = {"bundle": str(other_bundle), "share": 1.0}
    assert client.post("/admin/shadow", json=asked, headers=ADMIN).status_code == 200
    for text in ("good film", "a dull story", "the plot was so warm"):
        assert client.post("/v1/classify", json={"text": text}).json()["model"] == engine.bundle.id

    def told_of_shadow():
        return client.get("/admin/models", headers=ADMIN).json()["shadow"]

    wait_until(lambda: told_of_shadow()["compared"] == 3, 30)
    told = told_of_shadow()
    assert (told["compared"], told["disagreed"], told["largest_drift"]) == (3, 0, 0.0)
    assert metric(client, "prunella_shadow_texts_total") == 3
    assert client.delete("/admin/shadow", headers=ADMIN).status_code == 200
    assert client.get("/admin/models", headers=ADMIN).json()["candidate"] is None


# protocols


def test_hugging_face_api(client, engine):
    native = client.post("/v1/classify", json=TEXT).json()["predictions"]
    for inputs in ("good film", ["good film"], {"text": "good film"}, [{"text": "good film"}]):
        assert client.post("/", json={"inputs": inputs}).json() == [native]
    asked = {"inputs": ["good film", "a dull story"], "parameters": {"top_k": 1, "function_to_apply": "none"}}
    found = client.post("/", json=asked).json()
    raw = client.post("/v1/classify", json={"texts": asked["inputs"], "raw_scores": True, "top_k": 1}).json()
    assert found == raw["predictions"]
    softmax = {"inputs": "good film", "parameters": {"function_to_apply": "softmax"}}
    assert client.post("/", json=softmax).json()[0][0]["score"] == pytest.approx(native[0]["score"], abs=1e-6)
    assert client.post("/", json={"inputs": []}).status_code == 422
    assert client.get("/", follow_redirects=False).headers["location"] == "/ui"


def tensor(*texts, **changes):
    return {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": list(texts), **changes}


def test_open_inference_protocol(client, engine):
    name, version = engine.bundle.info.name, engine.bundle.id
    metadata = client.get(f"/v2/models/{name}").json()
    assert (metadata["name"], metadata["versions"]) == (name, [version])
    assert client.get(f"/v2/models/{name}/ready").json()["ready"] is True
    assert {one["name"]: one["datatype"] for one in metadata["outputs"]} == {
        "scores": "FP32", "logits": "FP32", "label": "BYTES",
    }  # fmt: skip
    for output in metadata["outputs"]:  # each can be asked for, and is what it says
        (found,) = client.post(
            f"/v2/models/{name}/infer", json={"inputs": [tensor("a", "b")], "outputs": [{"name": output["name"]}]}
        ).json()["outputs"]
        assert (found["name"], found["datatype"]) == (output["name"], output["datatype"])
        assert found["shape"] == [2, *output["shape"][1:]]
    none = {"inputs": [tensor("a")], "outputs": [{"name": "decisions"}]}
    assert client.post(f"/v2/models/{name}/infer", json=none).status_code == 400  # of multi-label models
    assert client.get("/v2").json()["name"] == "prunella"
    for path in (f"/v2/models/{name}/infer", f"/v2/models/{name}/versions/{version}/infer"):
        found = client.post(path, json={"id": "42", "inputs": [tensor("good film", "a dull story")]}).json()
        assert (found["id"], found["model_name"], found["model_version"]) == ("42", name, version)
        scores, label = found["outputs"]
        assert (scores["shape"], label["shape"], len(scores["data"])) == ([2, 2], [2], 4)
        native = client.post("/v1/classify", json={"texts": ["good film", "a dull story"]}).json()["predictions"]
        assert label["data"] == [row[0]["label"] for row in native]
        labels = engine.bundle.task.labels
        by_label = [{p["label"]: p["score"] for p in row} for row in native]
        assert scores["data"] == [row[label] for row in by_label for label in labels]
    nested = client.post(path, json={"inputs": [tensor("good film", shape=[1, 1], data=[["good film"]])]})
    assert nested.json()["outputs"][0]["data"] == scores["data"][:2]


@pytest.mark.parametrize(
    ("path", "inputs", "code"),
    [
        ("/v2/models/nobody/infer", [tensor("a")], 404), ("/v2/models/NAME/versions/9/infer", [tensor("a")], 404),
        ("/v2/models/NAME/infer", [], 400), ("/v2/models/NAME/infer", [tensor("a", datatype="FP32")], 400),
        ("/v2/models/NAME/infer", [tensor("a", shape=[2])], 400), ("/v2/models/NAME/infer", [tensor(5)], 400),
        ("/v2/models/NAME/infer", [tensor("a"), tensor("b", name="x")], 400),
        ("/v2/models/NAME/infer", [tensor("")], 422),
    ],
)  # fmt: skip
def test_open_inference_protocol_refusals(client, engine, path, inputs, code):
    answer = client.post(path.replace("NAME", engine.bundle.info.name), json={"inputs": inputs})
    assert answer.status_code == code, answer.text
    assert set(answer.json()) - {"index"} == {"error"}


# what it says of itself


def test_the_openapi_document_covers_every_route(client):
    document = client.get("/openapi.json").json()
    for path, route in client.app._routes.items():
        assert {method.upper() for method in document["paths"][path]} == set(route.methods), path
    assert document["paths"]["/v1/classify"]["post"]["requestBody"]["content"]["application/json"]
    text = json.dumps(document)
    for name in document["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text


def test_the_playground_loads_nothing_from_elsewhere(client):
    page = client.get("/ui")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http:" not in page.text
    assert "https:" not in page.text


def test_labels_of_metrics_are_bounded(client):
    for i in range(20):
        client.get(f"/nowhere/{i}")
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith("prunella_requests_total")]
    assert 'prunella_requests_total{code="404",dialect="other"} 20.0' in lines


def test_a_log_line_is_json_and_a_full_disk_costs_only_the_line():
    record = logging.LogRecord("prunella", logging.INFO, "", 1, "answered %s", ("x",), None)
    record.code = 200
    told = json.loads(JsonFormatter().format(record))
    assert (told["level"], told["message"], told["code"]) == ("info", "answered x", 200)
    lost = []
    handler = CarefulHandler(lambda: lost.append(1))
    with open("/dev/full", "w") as full:
        handler.setStream(full)
        handler.emit(record)
        assert lost == [1]
        with pytest.raises(OSError, match="No space"):
            full.close()


@pytest.mark.parametrize(("code", "logged"), [(400, False), (422, False), (500, True), (503, True), (None, True)])
def test_a_request_that_bentoml_refuses_is_no_error_of_the_server(code, logged):
    error = BentoMLException("no", error_code=HTTPStatus(code)) if code else RuntimeError("no")
    record = logging.LogRecord("bentoml", logging.ERROR, "", 1, "failed", (), (type(error), error, None))
    assert is_no_client_error(record) == logged
