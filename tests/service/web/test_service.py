"""The application over HTTP, in this process: answers, limits, errors; and what start-up refuses."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from starlette.testclient import TestClient
from tiny import tiny_texts

from models.task import Task
from service.inference.inference_service import InferenceService
from service.model.bundle import Bundle
from service.model.engine import Engine
from service.model.session import RuntimeSettings
from service.protocols import Request, predictions
from service.settings import Settings
from service.web.app import App

pytest_plugins = ["serving"]  # the fixtures tiny_bundle and pair_bundle
JSON = {"content-type": "application/json"}
TEXTS = [row[0] for row in tiny_texts(12).rows]
LONG = " ".join(["good plot and music"] * 40)


def open_engine(folder):
    return Engine.open(Bundle.open(folder), RuntimeSettings(device="cpu"))


@pytest.fixture(scope="module")
def engine(tiny_bundle):
    return open_engine(tiny_bundle)


@pytest.fixture
def client(engine):
    with TestClient(App(InferenceService(engine, Settings()))) as running:
        yield running


@pytest.fixture(scope="module")
def pair_engine(pair_bundle):
    return open_engine(pair_bundle)


@pytest.fixture
def pair_client(pair_engine):
    with TestClient(App(InferenceService(pair_engine, Settings()))) as running:
        yield running


def expected(engine, rows, **changes):
    """Return [{label, score}] by the definition: softmax of the logits, best first."""
    logits = np.concatenate([engine.logits([row]) for row in rows])
    if changes.get("raw_scores"):
        scores = logits
    else:
        powers = np.exp(logits.astype(float))
        scores = powers / powers.sum(1, keepdims=True)
    labels = engine.bundle.task.labels
    return [sorted(zip(row.tolist(), labels, strict=True), reverse=True)[: changes.get("top_k")] for row in scores]


def same(found, wanted):
    assert [[p["label"] for p in row] for row in found] == [[label for _, label in row] for row in wanted]
    scores = [p["score"] for row in found for p in row]
    assert scores == pytest.approx([score for row in wanted for score, _ in row], abs=1e-6)


def classify(client, **document):
    answer = client.post("/v1/classify", json=document)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


# answers


@pytest.mark.parametrize("options", [{}, {"top_k": 1}, {"top_k": 9}, {"raw_scores": True}])
def test_native_answers(client, engine, options):
    wanted = expected(engine, [(text,) for text in TEXTS], **options)
    same(classify(client, texts=TEXTS, **options), wanted)
    same([classify(client, text=TEXTS[0], **options)], wanted[:1])


def test_answer_names_the_model_and_the_times(client, engine):
    answer = client.post("/v1/classify", json={"text": "good film"})
    assert answer.json()["model"] == engine.bundle.id
    assert set(answer.json()["times_ms"]) == {"tokenize", "queue", "infer", "total"}
    assert all(ms >= 0 for ms in answer.json()["times_ms"].values())


def test_a_threshold_leaves_labels_out(client):
    everything = classify(client, text="good film")
    between = (everything[0]["score"] + everything[1]["score"]) / 2
    assert classify(client, text="good film", threshold=between) == everything[:1]
    assert classify(client, text="good film", threshold=1.1) == []


def test_a_text_that_cannot_be_answered_leaves_the_others_alone(client):
    answer = client.post("/v1/classify", json={"texts": ["good film", "", LONG], "truncate": False})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["predictions"] == [classify(client, text="good film"), None, None]
    assert [(e["index"], e["kind"]) for e in found["errors"]] == [(1, "Empty"), (2, "Validation")]
    assert "162 tokens" in found["errors"][1]["error"]


def test_tei_headers(client):
    answer = client.post("/predict", json={"inputs": "good film"})
    assert answer.headers["x-compute-type"] == "cpu+cpu-int8"
    assert int(answer.headers["x-compute-tokens"]) == 4
    assert int(answer.headers["x-compute-characters"]) == 9
    for step in ("compute", "total", "tokenization", "queue", "inference"):
        assert int(answer.headers[f"x-{step}-time"]) >= 0


def test_pairs(pair_client, pair_engine):
    pairs = [["good film", "plot"], ["a dull story", "it was so"]]
    wanted = expected(pair_engine, [tuple(pair) for pair in pairs])
    same(classify(pair_client, pairs=pairs), wanted)
    assert classify(pair_client, pairs=[["plot", "good film"]]) != classify(pair_client, pairs=pairs[:1])
    same([pair_client.post("/predict", json={"inputs": pairs[0]}).json()], wanted[:1])
    same(pair_client.post("/predict", json={"inputs": pairs}).json(), wanted)


def test_tei_formats(client, engine):
    wanted = expected(engine, [("good film",), ("a dull story",)])
    for inputs, answer in [
        ("good film", wanted[0]),
        (["good film"], wanted[0]),
        ([["good film"]], wanted[:1]),
        ([["good film"], ["a dull story"]], wanted),
    ]:
        found = client.post("/predict", json={"inputs": inputs}).json()
        nested = isinstance(found[0], list)
        assert nested == isinstance(answer[0], list)
        same(found if nested else [found], answer if nested else [answer])
    raw = client.post("/predict", json={"inputs": "good film", "raw_scores": True, "truncate": None}).json()
    same([raw], expected(engine, [("good film",)], raw_scores=True))


def test_alone_equals_in_a_batch(client):
    together = classify(client, texts=[*TEXTS, LONG], raw_scores=True)
    assert [classify(client, text=text, raw_scores=True) for text in [*TEXTS, LONG]] == together


def test_truncation_cuts_the_asked_end(client):
    words = LONG.split()
    head, tail = " ".join(["bad", *words]), " ".join([*words, "bad"])
    # max_tokens is 32: [CLS], 30 words of one token each, [SEP]
    kept = {"right": " ".join(["bad", *words[:29]]), "left": " ".join([*words[-29:], "bad"])}
    for text, direction in ((head, "right"), (tail, "left")):
        found = classify(client, text=text, truncation_direction=direction, raw_scores=True)
        assert found == classify(client, text=kept[direction], raw_scores=True)
        tei = {"inputs": text, "truncation_direction": direction.capitalize(), "raw_scores": True}
        assert client.post("/predict", json=tei).json() == found
    right, left = (classify(client, text=head, truncation_direction=d, raw_scores=True) for d in ("right", "left"))
    assert right != left


# refusals

NATIVE_REFUSALS = {
    "empty text": ({"text": " \n"}, 422, "empty"),
    "all of several are empty": ({"texts": [" ", ""]}, 422, "empty"),
    "no texts": ({"texts": []}, 422, "texts"),
    "nothing": ({}, 422, "one of text, texts and pairs"),
    "two kinds": ({"text": "a", "texts": ["b"]}, 422, "one of text, texts and pairs"),
    "unknown key": ({"text": "a", "topk": 1}, 422, "topk"),
    "top_k of zero": ({"text": "a", "top_k": 0}, 422, "top_k"),
    "a pair for a model of single texts": ({"pairs": [["a", "b"]]}, 422, "takes single texts"),
    "a number as text": ({"text": 5}, 422, "text"),
    "a number among texts": ({"texts": ["a", 5]}, 422, "texts"),
    "not an object": (["a"], 422, ""),
    "a direction that does not exist": ({"text": "a", "truncation_direction": "up"}, 422, "truncation_direction"),
    "too many tokens where cutting is forbidden": ({"text": LONG, "truncate": False}, 422, "162 tokens"),
    "too many texts": ({"texts": ["a"] * 33}, 413, "33 texts"),
    "too long a text where cutting is forbidden": ({"text": "a " * 100_001, "truncate": False}, 413, "200002 char"),
}


@pytest.mark.parametrize("case", NATIVE_REFUSALS)
def test_native_refusals(client, case):
    document, status, said = NATIVE_REFUSALS[case]
    answer = client.post("/v1/classify", json=document)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"]
    assert answer.json()["kind"]


TEI_REFUSALS = {
    "no inputs": ({"inputs": []}, 400, "Empty"),
    "an empty text": ({"inputs": ""}, 422, "Empty"),
    "three texts in a flat list": ({"inputs": ["a", "b", "c"]}, 422, "Validation"),
    "a pair for a model of single texts": ({"inputs": ["a", "b"]}, 422, "Validation"),
    "an empty group": ({"inputs": [["a"], []]}, 422, "Validation"),
    "numbers": ({"inputs": [1]}, 422, "Validation"),
    "no key": ({"text": "a"}, 422, "Validation"),
    "too many": ({"inputs": [["a"]] * 33}, 413, "Validation"),
}


@pytest.mark.parametrize("case", TEI_REFUSALS)
def test_tei_refusals(client, case):
    document, status, kind = TEI_REFUSALS[case]
    answer = client.post("/predict", json=document)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]
    assert answer.json()["error_type"] == kind


BODIES = {
    "not JSON": b"good film",
    "cut off": b'{"text": "good',
    "nothing": b"",
    "not UTF-8": b'{"text": "caf\xe9"}',
    "not a number": b'{"text": "a", "top_k": NaN}',
    "nested too deep": b'{"text": ' + b"[" * 5000 + b"]" * 5000 + b"}",
}


@pytest.mark.parametrize("path", ["/v1/classify", "/predict"])
@pytest.mark.parametrize("case", BODIES)
def test_bodies_that_are_not_json(client, path, case):
    answer = client.post(path, content=BODIES[case], headers=JSON)
    assert answer.status_code == 400, answer.text
    assert "not valid JSON" in answer.json()["error"]


LONE = {
    "a lone surrogate": (rb'{"texts": ["good \ud800film", "plot"]}', ["good \ufffdfilm", "plot"]),
    "the second half": (rb'{"texts": ["\udfffplot", "\ud83d\ude00"]}', ["\ufffdplot", "\U0001f600"]),
    "the wrong order": (rb'{"texts": ["\uDC00\uD800 good", "a"]}', ["\ufffd\ufffd good", "a"]),
    "no escape of one": (rb'{"texts": ["good \\ud800film", "\udbff"]}', ["good \\ud800film", "\ufffd"]),
}


@pytest.mark.parametrize("case", LONE)
def test_an_unpaired_surrogate_is_replaced_and_costs_no_other_text_its_answer(client, case):
    body, texts = LONE[case]
    answer = client.post("/v1/classify", content=body, headers=JSON)
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"] == classify(client, texts=texts)


@pytest.mark.parametrize("body", [rb'{"text": "\ud800", "top_k": NaN}', rb'{"text": "\ud800"', rb'["\ud800", 1e999]'])
def test_an_unpaired_surrogate_in_what_is_not_json(client, body):
    assert client.post("/v1/classify", content=body, headers=JSON).status_code in (400, 422)


@pytest.mark.parametrize("direction", ["right", "left"])
def test_a_text_over_the_limit_of_characters_is_cut(client, direction):
    text = "good " + "plot " * 40_010 + "bad"  # 200,058 characters
    document = {"truncation_direction": direction, "raw_scores": True}
    found = classify(client, text=text, **document)
    assert found == classify(client, text=text[:150] if direction == "right" else text[-300:], **document)


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_other_content_types_are_refused(client, kind):
    answer = client.post("/v1/classify", content=b'{"text": "a"}', headers={"content-type": kind} if kind else {})
    assert answer.status_code == 415
    assert "application/json" in answer.json()["error"]


def test_content_type_with_a_charset_is_taken(client):
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert client.post("/v1/classify", content=b'{"text": "a"}', headers=headers).status_code == 200


def test_body_over_the_limit_is_refused(client):
    answer = client.post("/v1/classify", content=b" " * 2_000_001, headers=JSON)
    assert answer.status_code == 413
    assert "2000000 bytes" in answer.json()["error"]


def test_text_of_a_hundred_thousand_characters_is_cut_and_answered(client):
    text = ("good plot " * 10_000)[:100_000]
    assert classify(client, text=text, raw_scores=True) == classify(client, text=text[:300], raw_scores=True)


@pytest.mark.parametrize("text", ["\x00", "🎬" * 50, "\u202e\ufeff", "x" * 5000, "ÅåÄä 中文 العربية"])
def test_odd_texts_are_answered(client, text):
    assert len(classify(client, text=text)) == 2


def test_a_single_text_for_a_model_of_pairs_is_refused(pair_client):
    answer = pair_client.post("/v1/classify", json={"text": "a"})
    assert answer.status_code == 422
    assert "takes pairs" in answer.json()["error"]


def test_unknown_path_and_wrong_method_are_json(client):
    assert client.get("/nope").status_code == 404
    assert client.get("/nope").json()["error"]
    assert client.get("/v1/classify").status_code == 405
    assert client.get("/v1/classify").json()["error"]
    assert client.get("/v1/classify").headers["allow"] == "POST"


class Slow:
    """An engine that takes its time."""

    def __init__(self, engine):
        self._engine = engine

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def infer(self, encoded):
        time.sleep(0.1)
        return self._engine.infer(encoded)


def test_two_clients_with_lists_are_both_served_and_so_is_a_single_text(engine):
    """Each list takes 0.8 s, more than a request may wait for the model if it is of one text."""
    document = {"texts": [f"good film {'plot ' * (i % 4)}" for i in range(32)]}
    settings = Settings(device="cpu", runners=1)
    with TestClient(App(InferenceService(Slow(engine), settings))) as client, ThreadPoolExecutor(3) as pool:
        lists = [pool.submit(client.post, "/v1/classify", json=document) for _ in range(3)]
        while "prunella_queue_depth 0.0" in client.get("/metrics").text:
            time.sleep(0.02)
        assert client.post("/v1/classify", json={"text": "good film"}).status_code == 200
        assert [answer.result().status_code for answer in lists] == [200, 200, 200]
        late = client.post("/v1/classify", json=document, headers={"X-Request-Timeout-Ms": "150"})
        assert late.status_code == 429


def test_a_full_line_is_refused_with_retry_after(engine):
    narrow = Settings(max_queue=1, request_timeout_ms=600_000)
    body = json.dumps({"texts": ["good film"] * 20})  # keeps the model busy while the others arrive
    with TestClient(App(InferenceService(Slow(engine), narrow))) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/classify", content=body, headers=JSON), range(8)))
        codes = [answer.status_code for answer in answers]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert set(codes) == {200, 429}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert refused[0].json()["kind"] == "Overloaded"
        assert client.post("/v1/classify", json={"text": "a"}).status_code == 200  # the line is empty again
        assert "prunella_queue_depth 0.0" in client.get("/metrics").text


# what it says about itself


def test_info(client, engine):
    info = client.get("/info").json()
    assert info["id"] == engine.bundle.id
    assert [step["stage"] for step in info["lineage"]] == ["finetune", "bundle"]
    assert info["labels"] == ["negative", "positive"]
    assert info["variant"] == "cpu-int8"
    assert info["model_type"]["classifier"]["label2id"] == {"negative": 0, "positive": 1}
    assert info["device"] == {"asked": "cpu", "got": "cpu", "variant": "cpu-int8", "reason": None}
    assert info["measured"]["loss_points"] == engine.bundle.report()["loss_points"]  # what int8 was seen to cost


def test_metrics(client, engine):
    client.post("/v1/classify", json={"text": "good"})
    client.post("/predict", json={"inputs": ""})
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = answer.text.splitlines()
    assert 'prunella_requests_total{code="200",dialect="native"} 1.0' in lines
    assert 'prunella_requests_total{code="422",dialect="tei"} 1.0' in lines
    assert "prunella_infer_seconds_count 1.0" in lines
    assert "prunella_device_fallback 0.0" in lines
    assert (
        f'prunella_model_info{{device="cpu",id="{engine.bundle.id}",name="prunella",variant="cpu-int8"}} 1.0' in lines
    )


@pytest.mark.parametrize("path", ["/livez", "/healthz", "/readyz", "/health", "/v2/health/live", "/v2/health/ready"])
def test_probes(client, path):
    assert client.get(path).status_code == 200


def test_a_server_that_shuts_down_or_cannot_answer_has_no_model_that_is_ready(client, monkeypatch):
    path = "/v2/models/prunella/ready"
    assert client.get(path).json() == {"ready": True, "name": "prunella"}
    inference = client.app.inference
    for name, value in (("draining", True), ("trouble", lambda: "a runner has ended")):
        with monkeypatch.context() as patch:
            patch.setattr(inference, name, value)
            for probe in (path, "/v2/health/ready"):
                answer = client.get(probe)
                assert (answer.status_code, answer.json()["ready"]) == (503, False)
    assert client.get(path).status_code == 200


@pytest.mark.parametrize(("kind", "labels"), [("single", 3), ("multi", 3), ("regression", 1)])
def test_scores_of_a_text_are_those_of_the_task(kind, labels):
    logits = np.random.default_rng(0).normal(0, 9, (20, labels)).astype(np.float32)
    task = Task(kind=kind, labels=tuple(f"label {i}" for i in range(labels)))
    found = [{p["label"]: p["score"] for p in row} for row in predictions(task, logits, Request([], single=False))]
    assert np.allclose([[row[label] for label in task.labels] for row in found], task.scores(logits), atol=1e-6)
