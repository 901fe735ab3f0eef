"""A bundle with a gate, served over real sockets: which stage answers, in every protocol, and with which scores."""

import os
from contextlib import ExitStack
from pathlib import Path

import bentoml
import numpy as np
import pytest
import requests
from gates import add_gate
from test_server_process import PRUNELLA, running
from tiny import tiny_texts

from service.model.bundle import Bundle
from service.model.engine import Engine
from service.model.session import RuntimeSettings

tritonhttp = pytest.importorskip("tritonclient.http", reason="Triton's client is tested where it is installed")
pytest_plugins = ["serving"]  # the fixture tiny_bundle
ROOT = Path(__file__).resolve().parents[3]
TEXTS = sorted({row[0] for row in tiny_texts(64).rows})
STUDENT = {"X-Cascade": "false"}
STAGE = "x-cascade-stage"


@pytest.fixture(scope="module")
def gated(tiny_bundle, tmp_path_factory):
    return add_gate(tiny_bundle, tmp_path_factory.mktemp("gated") / "bundle", disagreements=20)


@pytest.fixture(scope="module")
def servers(tiny_bundle, gated, tmp_path_factory):
    """URLs of servers: of the bundle with the gate, with infinity's answers, with the gate off, and without one."""
    folder = tmp_path_factory.mktemp("logs")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PRUNELLA_", "BENTOML_"))}
    kinds = {
        "on": (gated, [], {"PRUNELLA_PREDICT_ROUTE": "/vertex"}),
        "infinity": (gated, [], {"PRUNELLA_CLASSIFY_DIALECT": "infinity"}),
        "off": (gated, ["--no-cascade"], {}),
        "plain": (tiny_bundle, [], {"PRUNELLA_PREDICT_ROUTE": "/vertex"}),
    }
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                running(
                    [*PRUNELLA, "serve", str(bundle), "--device", "cpu", *options],
                    {**kept, "PYTHONPATH": str(ROOT), **settings},
                    folder / name,
                )
            )[1]
            for name, (bundle, options, settings) in kinds.items()
        }


@pytest.fixture(scope="module")
def library(gated):
    """Stage and scores, in the order of the labels, of each of TEXTS, from the bundle itself."""
    engine = Engine.open(Bundle.open(gated), RuntimeSettings(device="cpu"))
    found = {}
    for text in TEXTS:
        (encoded,) = engine.encode([(text,)])
        answer = engine.gate.decide(encoded.ids)
        logits = answer.logits[None] if answer.answered else engine.infer([encoded])
        found[text] = ("gate" if answer.answered else "student", engine.bundle.task.scores(logits)[0])
    assert {stage for stage, _ in found.values()} == {"gate", "student"}  # of one only, the tests would say nothing
    return engine.bundle.task.labels, found


def post(url, path, body, **headers):
    answer = requests.post(url + path, json=body, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer


def letters(library, texts):
    return "".join(library[1][text][0][0] for text in texts)


def same(library, predictions, text):
    """Compare ranked labels with the library's scores; the service computes the softmax in double precision."""
    labels, found = library
    scores = {one["label"]: one["score"] for one in predictions}
    np.testing.assert_allclose([scores[label] for label in labels], found[text][1], rtol=1e-5)


def test_each_text_is_answered_by_the_stage_and_with_the_scores_of_the_library(servers, library):
    for text in TEXTS:
        answer = post(servers["on"], "/v1/classify", {"text": text})
        document = answer.json()
        assert document["stage"] == answer.headers[STAGE] == library[1][text][0]
        same(library, document["predictions"], text)
        assert list(document["times_ms"]) == ["tokenize", "gate", "queue", "infer", "total"]
        if document["stage"] == "gate":
            assert document["times_ms"]["queue"] == document["times_ms"]["infer"] == 0


def test_a_list_has_the_answers_of_its_texts_alone(servers, library):
    alone = [post(servers["on"], "/v1/classify", {"text": text}).json()["predictions"] for text in TEXTS]
    for start in range(0, len(TEXTS), 32):
        texts = TEXTS[start : start + 32]
        answer = post(servers["on"], "/v1/classify", {"texts": texts})
        assert answer.json()["predictions"] == alone[start : start + 32]  # to the last bit, whoever is beside a text
        assert [one[0] for one in answer.json()["stage"]] == list(letters(library, texts))
        assert answer.headers[STAGE] == letters(library, texts)


def test_a_text_without_an_answer_has_no_stage(servers, library):
    answer = post(servers["on"], "/v1/classify", {"texts": [TEXTS[0], " ", TEXTS[1]]})
    assert answer.json()["stage"][1] is None
    assert answer.headers[STAGE] == f"{letters(library, TEXTS[:1])}-{letters(library, TEXTS[1:2])}"
    assert [problem["index"] for problem in answer.json()["errors"]] == [1]


def flat(labels, row):
    scores = {one["label"]: one["score"] for one in row}
    return [scores[label] for label in labels]


def binary(url, texts, headers):
    """Ask with Triton's client, which sends and receives binary tensors."""
    tensor = tritonhttp.InferInput("text", [len(texts)], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=object))
    with tritonhttp.InferenceServerClient(url.removeprefix("http://")) as client:
        (name,) = {requests.get(f"{url}/info", timeout=30).json()["model_id"]}
        return client.infer(name, [tensor], headers=headers).as_numpy("scores").tolist()


# path, body of texts, scores of an answer in the order of the labels
DIALECTS = {
    "native": ("/v1/classify", lambda t: {"texts": t}, lambda d, n: [flat(n, row) for row in d["predictions"]]),
    "tei": ("/predict", lambda t: {"inputs": [[x] for x in t]}, lambda d, n: [flat(n, row) for row in d]),
    "hf": ("/", lambda t: {"inputs": t}, lambda d, n: [flat(n, row) for row in d]),
    "vllm": ("/classify", lambda t: {"input": t}, lambda d, _: [one["probs"] for one in d["data"]]),
    "sglang": ("/v1/classify", lambda t: {"input": t}, lambda d, _: [one["probs"] for one in d["data"]]),
    "sagemaker": (
        "/invocations",
        lambda t: {"instances": t},
        lambda d, n: [flat(n, row) for row in d["predictions"]],
    ),
    "vertex": ("/vertex", lambda t: {"instances": t}, lambda d, n: [flat(n, row) for row in d["predictions"]]),
    "bentoml": ("/classify", lambda t: {"texts": t}, lambda d, n: [flat(n, row) for row in d["predictions"]]),
    "oip": (
        "/v2/models/{name}/infer",
        lambda t: {"inputs": [{"name": "text", "shape": [len(t)], "datatype": "BYTES", "data": t}]},
        lambda d, n: np.reshape(d["outputs"][0]["data"], (-1, len(n))).tolist(),
    ),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_protocol_says_the_stage_in_a_header_and_can_ask_for_the_student(servers, library, dialect):
    path, body, scores = DIALECTS[dialect]
    labels, found = library
    texts = TEXTS[:12]
    assert set(letters(library, texts)) == {"g", "s"}
    path = path.format(name=requests.get(f"{servers['on']}/info", timeout=30).json()["model_id"])
    answer = post(servers["on"], path, body(texts))
    assert answer.headers[STAGE] == letters(library, texts)
    np.testing.assert_allclose(scores(answer.json(), labels), [found[text][1] for text in texts], rtol=1e-5)
    student = post(servers["on"], path, body(texts), **STUDENT)
    plain = post(servers["plain"], path, body(texts), **STUDENT)  # the header means nothing there
    assert student.headers[STAGE] == "s" * len(texts)
    assert STAGE not in plain.headers
    assert scores(student.json(), labels) == scores(plain.json(), labels)
    refused = requests.post(servers["on"] + path, json=body(texts), headers={"X-Cascade": "maybe"}, timeout=30)
    assert refused.status_code == (400 if dialect in ("vllm", "sglang") else 422)
    assert "X-Cascade must be true or false" in refused.text


def test_infinity_has_the_same_header(servers, library):
    answer = post(servers["infinity"], "/classify", {"input": TEXTS[:12]})
    assert answer.headers[STAGE] == letters(library, TEXTS[:12])
    for row, text in zip(answer.json()["data"], TEXTS, strict=False):
        same(library, row, text)


def test_clients_of_triton_and_bentoml(servers, library):
    labels, found = library
    texts = TEXTS[:12]
    np.testing.assert_allclose(binary(servers["on"], texts, {}), [found[text][1] for text in texts], rtol=1e-5)
    assert binary(servers["on"], texts, STUDENT) == binary(servers["plain"], texts, {})
    with bentoml.SyncHTTPClient(servers["on"]) as client:
        rows = client.classify(texts=texts)["predictions"]
    np.testing.assert_allclose([flat(labels, row) for row in rows], [found[text][1] for text in texts], rtol=1e-5)


def predictions(url, body):
    return post(url, "/v1/classify", body).json()["predictions"]


def test_a_request_for_the_student_gets_the_answers_of_the_bundle_without_the_gate(servers):
    body = {"texts": TEXTS[:32], "cascade": False}
    answer = post(servers["on"], "/v1/classify", body).json()
    assert answer["predictions"] == predictions(servers["plain"], body)
    assert answer["stage"] == ["student"] * 32


def test_the_setting_turns_the_gate_off(servers):
    answer = post(servers["off"], "/v1/classify", {"texts": TEXTS[:32]})
    assert answer.json()["predictions"] == predictions(servers["plain"], {"texts": TEXTS[:32]})
    assert answer.json()["stage"] == ["student"] * 32
    assert not requests.get(f"{servers['off']}/info", timeout=30).json()["cascade"]["on"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/classify", lambda t: {"text": t, "raw_scores": True}),
        ("/v1/classify", lambda t: {"text": t, "truncation_direction": "left"}),
        ("/predict", lambda t: {"inputs": t, "raw_scores": True}),
        ("/predict", lambda t: {"inputs": t, "truncation_direction": "Left"}),
        ("/", lambda t: {"inputs": [t], "parameters": {"function_to_apply": "sigmoid"}}),
        ("/", lambda t: {"inputs": [t], "parameters": {"function_to_apply": "none"}}),
        ("/classify", lambda t: {"input": t, "use_activation": False}),
        ("/classify", lambda t: {"input": t, "truncate_prompt_tokens": 3}),
        ("/classify", lambda t: {"input": t, "add_special_tokens": False}),
        ("/classify", lambda _: {"input": [2, 7, 3]}),
        (
            "/v2/models/{name}/infer",
            lambda t: {
                "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [t]}],
                "outputs": [{"name": "logits"}],
            },
        ),
    ],
)
def test_what_the_gate_cannot_give_is_answered_by_the_student(servers, library, path, body):
    name = requests.get(f"{servers['on']}/info", timeout=30).json()["model_id"]
    easy = next(text for text in TEXTS if library[1][text][0] == "gate")
    answer = post(servers["on"], path.format(name=name), body(easy))
    assert answer.headers[STAGE] in ("student", "s")
    plain = post(servers["plain"], path.format(name=name), body(easy))
    changing = ("id", "created", "model", "times_ms", "model_version", "stage")

    def stable(document):
        kept = document.items() if isinstance(document, dict) else ()
        return {k: v for k, v in kept if k not in changing} or document

    assert stable(answer.json()) == stable(plain.json())


def test_what_leaves_the_answer_whole_is_answered_by_the_gate(servers, library):
    easy = next(text for text in TEXTS if library[1][text][0] == "gate")
    for body in ({"top_k": 1}, {"threshold": 0.5}, {"truncate": False}, {"cascade": True}):
        assert post(servers["on"], "/v1/classify", {"text": easy, **body}).json()["stage"] == "gate"
    for body in ({"truncate_prompt_tokens": -1}, {"use_activation": True}):
        assert post(servers["on"], "/classify", {"input": easy, **body}).headers[STAGE] == "g"
    hf = {"inputs": easy, "parameters": {"function_to_apply": "softmax"}}
    assert post(servers["on"], "/", hf).headers[STAGE] == "gate"


def test_a_long_text_is_cut_and_answered_by_the_stage_of_its_beginning(servers, library):
    long = f"{TEXTS[0]} " * 3000  # waits for a tokenizer thread
    answer = post(servers["on"], "/v1/classify", {"text": long})
    whole = post(servers["on"], "/v1/classify", {"text": long[:4000]})
    assert answer.json()["predictions"] == whole.json()["predictions"]
    assert answer.headers[STAGE] == whole.headers[STAGE]


def test_a_bundle_without_a_gate_says_nothing_of_stages(servers):
    answer = post(servers["plain"], "/v1/classify", {"text": TEXTS[0], "cascade": False})
    assert list(answer.json()) == ["model", "predictions", "times_ms"]
    assert list(answer.json()["times_ms"]) == ["tokenize", "queue", "infer", "total"]
    assert STAGE not in answer.headers
    assert requests.get(f"{servers['plain']}/info", timeout=30).json()["cascade"] is None
    assert "nan" in next(
        line.lower() for line in requests.get(f"{servers['plain']}/metrics", timeout=30).text.splitlines()
        if line.startswith("prunella_gate_expected_share")
    )  # fmt: skip


def test_info_and_metrics_describe_the_gate(servers, gated):
    gate = Bundle.open(gated).gate.info
    told = requests.get(f"{servers['on']}/info", timeout=30).json()["cascade"]
    assert told["on"]
    assert told["check_share"] == 0.01
    assert (told["share"], told["bound_points"], told["rows"]) == (gate.share, gate.bound_points, gate.rows)
    assert 20 / 500 < told["disagreement_bound"] < 0.06

    def values():
        page = requests.get(f"{servers['on']}/metrics", timeout=30).text
        return {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in page.splitlines() if line[0] != "#"
        }

    name = 'prunella_cascade_texts_total{{stage="{}"}}'
    before = values()
    stages = post(servers["on"], "/v1/classify", {"texts": TEXTS[:12]}).json()["stage"]
    post(servers["on"], "/v1/classify", {"texts": TEXTS[:5], "cascade": False})
    after = values()
    for stage, count in (("gate", stages.count("gate")), ("student", stages.count("student")), ("bypass", 5)):
        assert after[name.format(stage)] - before.get(name.format(stage), 0) == count
    assert after["prunella_gate_seconds_count"] - before["prunella_gate_seconds_count"] == 1
    assert after["prunella_gate_expected_share"] == 0.5
    assert after["prunella_gate_drift"] == 0
