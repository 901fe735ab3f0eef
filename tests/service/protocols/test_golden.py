"""Requests and answers of every route, as files: golden/*.json, which `python tests/service/protocols/test_golden.py`
writes again from the answers of the code."""

import json
import re
import sys
from pathlib import Path

import pytest
from starlette.testclient import TestClient

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[3])]

from bundles import make_fixed_model, make_tiny_bundle
from gates import add_gate

from models.task import Task
from service.inference.inference_service import InferenceService
from service.model.bundle import Bundle
from service.model.engine import Engine
from service.model.session import RuntimeSettings
from service.settings import Settings
from service.web.app import App

pytest_plugins = ["serving"]  # the fixture tiny_bundle
FOLDER = Path(__file__).parent / "golden"
MODELS = {
    "topics": Task(labels=("world", "sports", "business"), max_tokens=40),
    "emotions": Task(kind="multi", labels=("joy", "anger"), max_tokens=40),
    "ranker": Task(kind="regression", labels=("relevance",), pair=True, max_tokens=40),
    "entailment": Task(labels=("contradiction", "neutral", "entailment"), pair=True, max_tokens=40),
    "cascade": Task(labels=("world", "sports", "business"), max_tokens=40),  # with a gate
}
# what differs between two runs of the same request
CHANGING = {
    "id": r'(?<="id":")([a-z]+)-[0-9a-f]{32}(?=")',
    "time": r'(?<="created":)\d{9,}',
}
CASES = sorted(path.stem for path in FOLDER.glob("*.json"))


@pytest.fixture(scope="module")
def clients(tiny_bundle, tmp_path_factory):
    """A function that returns the client of a model of MODELS with settings; each is opened once."""
    folder, running = tmp_path_factory.mktemp("golden"), {}

    def client(model, settings):
        key = model, json.dumps(settings, sort_keys=True)
        if key not in running:
            running[key] = TestClient(App(open_service(tiny_bundle, folder, model, settings)))
            running[key].__enter__()
        return running[key]

    yield client
    for one in running.values():
        one.__exit__(None, None, None)


def open_service(source, folder, model, settings):
    path = folder / model
    if not path.exists():
        student = folder / "student" if model == "cascade" else path
        make_fixed_model(source, student, MODELS[model])
        if model == "cascade":
            add_gate(student, path, disagreements=20)
    engine = Engine.open(Bundle.open(path), RuntimeSettings(device="cpu"))
    return InferenceService(engine, Settings(**{"served_as": model, **settings}))


def ask(client, request):
    """Return status and JSON of the answer, without what changes from run to run."""
    method, path = request["route"].split()
    answer = client.request(method, path, json=request.get("body"), headers=request.get("headers"))
    version = client.app.inference.model_slots.current.bundle.id
    text = re.sub(r'"times_ms":\{[^}]*\}', '"times_ms":{}', answer.text.replace(version, "VERSION"))
    text = re.sub(CHANGING["id"], r"\1-ID", text)
    found = {"status": answer.status_code, "body": json.loads(re.sub(CHANGING["time"], "0", text))}
    stage = answer.headers.get("x-cascade-stage")
    return found if stage is None else {**found, "stage": stage}


def same(found, wanted):
    """Compare two documents; numbers may differ by a rounding error."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            same(found[key], value)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            same(one, other)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, abs=1e-6)
    else:
        assert found == wanted


@pytest.mark.parametrize("case", CASES)
def test_every_request_gets_the_answer_of_its_file(clients, case):
    for document in json.loads((FOLDER / f"{case}.json").read_text()):
        same(ask(clients(document["model"], document.get("settings", {})), document["request"]), document["answer"])


def test_every_example_of_the_page_on_serving_is_answered(clients):
    """The one for BentoML's clients needs a server, because BentoML's application is not in the test client."""
    page = Path(__file__).resolve().parents[3] / "docs" / "serving.md"
    examples = page.read_text(encoding="utf-8").split("\n## Examples\n")[1].split("\n## ")[0]
    lines = re.findall(r"^curl -s http://127.0.0.1:3000(\S+) .* -d '(.*)'$", examples, re.MULTILINE)
    assert len(lines) == 10
    for path, body in lines:
        if (path, "texts") == ("/classify", next(iter(json.loads(body)))):
            continue
        model = "ranker" if path in ("/score", "/rerank") else "topics"
        answer = clients(model, {"served_as": "prunella"}).post(path, json=json.loads(body))
        assert answer.status_code == 200, (path, answer.text)


def test_every_route_that_takes_texts_has_a_file(clients):
    """A route is in the OpenAPI document, so none can be forgotten here."""
    recorded = {
        document["request"]["route"].split()[1]
        for case in CASES
        for document in json.loads((FOLDER / f"{case}.json").read_text())
    }
    paths = clients("topics", {}).get("/openapi.json").json()["paths"]
    wanted = {path for path, operations in paths.items() if "post" in operations and not path.startswith("/admin")}
    missing = {
        path for path in wanted
        if not any(re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path), route) for route in recorded)
    }  # fmt: skip
    assert missing == set()


def write_files() -> None:
    """Write the answers of the code into the files of `FOLDER`, whose requests stay."""
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = make_tiny_bundle(folder / "single")
        for path in sorted(FOLDER.glob("*.json")):
            documents = json.loads(path.read_text())
            for document in documents:
                service = open_service(source, folder, document["model"], document.get("settings", {}))
                with TestClient(App(service)) as client:
                    document["answer"] = ask(client, document["request"])
            path.write_text(json.dumps(documents, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_files()
