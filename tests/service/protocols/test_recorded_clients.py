"""Requests of clients that cannot be installed beside the pinned packages, byte for byte, and what the clients read.

recorded_requests.json has what the versions that it names sent to a server that wrote it down; headers that differ
from machine to machine are left out.
"""

import json
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from test_golden import open_service

from service.web.app import App

pytest_plugins = ["serving"]  # the fixture tiny_bundle
RECORDED = json.loads(Path(__file__).with_name("recorded_requests.json").read_text())


@pytest.fixture(scope="module")
def clients(tiny_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    opened = {
        model: TestClient(App(open_service(tiny_bundle, folder, model, {"api_key": "key-of-caller"})))
        for model in ("topics", "ranker", "entailment")
    }
    for one in opened.values():
        one.__enter__()
    yield opened
    for one in opened.values():
        one.__exit__(None, None, None)


def ask(clients, recorded, **changed):
    method, path = recorded["request"].split()
    headers = {**recorded["headers"], **changed}
    headers = {name: value.replace("Bearer key", "Bearer key-of-caller") for name, value in headers.items()}
    return clients[recorded["model"]].request(method, path, content=recorded["body"], headers=headers)


def of(name):
    found = [one for one in RECORDED if name in one["client"]]
    assert found
    return found


@pytest.mark.parametrize("recorded", of("cohere"), ids=lambda one: one["request"])
def test_cohere(clients, recorded):
    answer = ask(clients, recorded)
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert len(results) == (1 if '"top_n":1' in recorded["body"] else 2)  # top_n may be more than there are
    assert [one["relevance_score"] for one in results] == sorted(
        (x["relevance_score"] for x in results), reverse=True
    )
    documents = json.loads(recorded["body"])["documents"]
    for one in results:
        document = documents[one["index"]]
        assert one["document"]["text"] == (document if isinstance(document, str) else document["text"])


def test_openai(clients):
    listing, classes, scores = of("openai")
    (model,) = ask(clients, listing).json()["data"]
    assert (model["id"], model["object"]) == ("topics", "model")
    assert [one["index"] for one in ask(clients, classes).json()["data"]] == [0, 1]
    assert [one["index"] for one in ask(clients, scores).json()["data"]] == [0, 1]
    refused = ask(clients, {**classes, "body": classes["body"].replace("good film", "")})
    assert refused.status_code == 400  # the client shows `message` of `error`
    assert refused.json()["error"]["message"] == "a text is empty (the text at index 0)"


def test_huggingface_hub(clients):
    (recorded,) = of("text_classification")
    ((best, second),) = ask(clients, recorded).json()  # the client takes the first element
    assert best["score"] >= second["score"]
    (recorded,) = of("sentence_similarity")
    refused = ask(clients, recorded)
    assert (refused.status_code, "inputs.source_sentence: unknown key" in refused.json()["error"]) == (422, True)


@pytest.mark.parametrize(
    ("agent", "is_list"),
    [
        ("unknown/None; hf_hub/2.4.0; python/3.11.7", True), ("x/1.0; hf_hub/1.2.0.dev0; python/3.12", True),
        ("unknown/None; hf_hub/1.1.9; python/3.11.7", False), ("unknown/None; hf_hub/0.36.2; python/3.11.7", False),
        ("python-requests/2.32", False), ("hf_hub/new", False), ("", False),
    ],
)  # fmt: skip
def test_zero_shot_answers_have_the_form_that_this_version_of_huggingface_hub_reads(clients, agent, is_list):
    (recorded,) = of("zero_shot")
    answer = ask(clients, recorded, **{"user-agent": agent}).json()
    if is_list:
        assert {one["label"] for one in answer} == {"film", "plot"}
    else:
        assert set(answer["labels"]) == {"film", "plot"}


def test_the_recorded_versions_are_those_that_the_documentation_names(clients):
    page = (Path(__file__).resolve().parents[3] / "docs" / "serving.md").read_text(encoding="utf-8")
    assert {f"{name} {version}" for name, version, _ in (one["client"].split() for one in RECORDED)} == {
        name for name in ("cohere 7.3.1", "openai 3.57.0", "huggingface_hub 2.4.0") if name in page
    }
