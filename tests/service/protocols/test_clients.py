"""Real clients of other servers, over HTTP, and requests that are copied from the documentation of those servers."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bentoml
import httpx
import huggingface_hub.constants
import numpy as np
import pytest
import requests
from bundles import make_fixed_model
from huggingface_hub import InferenceClient
from test_golden import MODELS
from test_server_process import PRUNELLA, running

tritonhttp = pytest.importorskip("tritonclient.http", reason="Triton's client is tested where it is installed")
pytest_plugins = ["serving"]  # the fixture tiny_bundle
ROOT = Path(__file__).resolve().parents[3]
NAMES = {"topics": "jason9693/Qwen2.5-1.5B-apeach", "ranker": "BAAI/bge-reranker-base", "entailment": "nli"}
# from vLLM's documentation of /classify, and SGLang's of /v1/classify
VLLM = {"model": NAMES["topics"], "input": "Loved the new café—coffee was great."}
VLLM_BATCH = {
    "model": NAMES["topics"],
    "input": ["Loved the new café—coffee was great.", "This update broke everything. Frustrating."],
}
# from vLLM's documentation of /score and /rerank; only the name of the model is the same for both here
SCORE = {
    "model": NAMES["ranker"],
    "encoding_format": "float",
    "text_1": "What is the capital of France?",
    "text_2": ["The capital of Brazil is Brasilia.", "The capital of France is Paris."],
}
RERANK = {
    "model": NAMES["ranker"],
    "query": "What is the capital of France?",
    "documents": [
        "The capital of Brazil is Brasilia.",
        "The capital of France is Paris.",
        "Horses and cows are both animals",
    ],
}
# from the README of text-embeddings-inference
TEI = {"inputs": "I like you."}
TEI_PAIRS = {"inputs": [["I like pineapples", "I like oranges"]], "raw_scores": True}
TEI_RERANK = {"query": "What is Deep Learning?", "texts": ["Deep Learning is not...", "Deep learning is..."]}


def serve(source, folder, model, **settings):
    bundle = make_fixed_model(source, folder / model, MODELS[model].model_copy(update={"max_tokens": 256}))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PRUNELLA_", "BENTOML_"))}
    environment = {**kept, "PYTHONPATH": str(ROOT), **settings}
    command = [*PRUNELLA, "serve", str(bundle), "--device", "cpu", "--model_name", NAMES[model]]
    return running(command, environment, folder / f"{model}.log")


@pytest.fixture(scope="module")
def topics(tiny_bundle, tmp_path_factory):
    """URL of a server of topics, behind a path."""
    with serve(tiny_bundle, tmp_path_factory.mktemp("topics"), "topics", PRUNELLA_ROOT_PATH="/nlp") as (_, url):
        yield url


@pytest.fixture(scope="module")
def ranker(tiny_bundle, tmp_path_factory):
    """URL of a server of a ranker; Vertex AI calls a path that other clients use too."""
    with serve(tiny_bundle, tmp_path_factory.mktemp("ranker"), "ranker", AIP_PREDICT_ROUTE="/rerank") as (_, url):
        yield url


@pytest.fixture(scope="module")
def entailment(tiny_bundle, tmp_path_factory):
    with serve(tiny_bundle, tmp_path_factory.mktemp("entailment"), "entailment") as (_, url):
        yield url


def native(url, text):
    """Return the scores of a text by label."""
    answer = requests.post(f"{url}/v1/classify", json={"text": text}, timeout=20).json()
    return {prediction["label"]: prediction["score"] for prediction in answer["predictions"]}


@pytest.fixture
def _hub_is_on(monkeypatch):
    """The command line switches the hub off for its process, and this client with it, though its server is local."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


@pytest.mark.usefixtures("_hub_is_on")
def test_huggingface_hub(topics):
    found = InferenceClient(model=topics).text_classification("good film", top_k=2, function_to_apply="softmax")
    assert {one.label: one.score for one in found}.items() <= native(topics, "good film").items()


@pytest.mark.usefixtures("_hub_is_on")
def test_huggingface_hub_zero_shot(entailment):
    client = InferenceClient(model=entailment)
    found = client.zero_shot_classification(
        "good film", ["music", "film", "plot"], multi_label=True, hypothesis_template="It was {}."
    )
    assert {one.label for one in found} == {"music", "film", "plot"}
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_the_bodies_of_vllm(topics):
    for path in ("/classify", "/v1/classify"):
        found = requests.post(topics + path, json=VLLM, timeout=20).json()
        (one,) = found["data"]
        scores = native(topics, VLLM["input"])
        assert dict(zip(MODELS["topics"].labels, one["probs"], strict=True)) == pytest.approx(scores)
        assert one["label"] == max(scores, key=scores.get)
        batch = httpx.post(topics + path, json=VLLM_BATCH, timeout=20).json()
        assert [item["index"] for item in batch["data"]] == [0, 1]
        assert batch["usage"]["prompt_tokens"] == batch["usage"]["total_tokens"] > 0
    (model,) = requests.get(topics + "/v1/models", timeout=20).json()["data"]
    assert model["id"] == NAMES["topics"]


def test_messages_of_chat_models_are_refused_in_the_form_of_vllm(topics):
    document = {"messages": [{"role": "user", "content": "good film"}]}
    for path in ("/classify", "/v1/classify", "/invocations"):
        answer = requests.post(topics + path, json=document, timeout=20)
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "BadRequestError")
        assert "send the text as `input`" in answer.json()["error"]["message"]


def test_text_and_its_token_ids_have_the_same_answer(topics):
    ids = requests.post(topics + "/tokenize", json={"prompt": "good film"}, timeout=20).json()["tokens"]
    texts = [
        requests.post(topics + "/classify", json={"input": value}, timeout=20).json()["data"]
        for value in ("good film", ids, [ids])
    ]
    assert texts[0] == texts[1] == texts[2]
    assert requests.post(topics + "/detokenize", json={"tokens": ids}, timeout=20).json()["prompt"].count("film") == 1


def test_the_bodies_of_text_embeddings_inference(topics, ranker):
    found = requests.post(topics + "/predict", json=TEI, timeout=20).json()
    assert {one["label"]: one["score"] for one in found} == native(topics, "I like you.")
    assert len(requests.post(ranker + "/predict", json=TEI_PAIRS, timeout=20).json()) == 1
    ranked = requests.post(ranker + "/rerank", json=TEI_RERANK, timeout=20).json()
    assert sorted(one["index"] for one in ranked) == [0, 1]
    assert ranked[0]["score"] >= ranked[1]["score"]


@pytest.mark.parametrize(
    ("query", "document"),
    [("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2")],
)
def test_the_error_of_a_score_says_which_text_under_every_name(ranker, query, document):
    for wrong, index in (
        ({query: "good film", document: ["plot", 5]}, 1), ({query: "good film", document: ["plot", "a", ""]}, 2),
        ({query: ["good", None], document: ["plot", "film"]}, 1), ({query: [["good"]], document: ["plot"]}, 0),
    ):  # fmt: skip
        answer = requests.post(ranker + "/score", json=wrong, timeout=20)
        assert (answer.status_code, answer.json()["error"].get("index")) == (400, index), wrong


def test_infinitys_name_of_logits_in_a_ranking(ranker):
    answers = [
        requests.post(ranker + "/v1/rerank", json={**RERANK, **more}, timeout=20).json()["results"]
        for more in ({}, {"raw_scores": False}, {"raw_scores": True}, {"use_activation": False})
    ]
    assert answers[0] == answers[1]
    assert answers[0] != answers[2] == answers[3]


def test_a_path_of_vertex_keeps_the_clients_that_it_has(ranker):
    instance = {"text": "good film", "text_pair": "plot"}
    answer = requests.post(ranker + "/rerank", json={"instances": [instance]}, timeout=20)
    assert answer.json()["predictions"][0][0]["label"] == "relevance"
    for body in (b'{"query": ', b"{}", b'{"query": "a", "documents": [5]}'):
        answers = [
            requests.post(ranker + path, data=body, headers={"Content-Type": "application/json"}, timeout=20)
            for path in ("/rerank", "/v1/rerank")
        ]
        assert answers[0].json() == answers[1].json()
        assert answers[0].status_code == answers[1].status_code == 400
    paths = requests.get(ranker + "/openapi.json", timeout=20).json()["paths"]
    assert paths["/rerank"] == paths["/v1/rerank"]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_the_bodies_of_rerankers(ranker, path):
    found = httpx.post(ranker + path, json=RERANK, timeout=20).json()
    scores = httpx.post(
        ranker + "/score",
        json={"queries": RERANK["query"], "documents": RERANK["documents"]},
        timeout=20,
    ).json()
    by_index = {one["index"]: one["score"] for one in scores["data"]}
    assert [one["relevance_score"] for one in found["results"]] == sorted(by_index.values(), reverse=True)
    assert {one["index"]: one["relevance_score"] for one in found["results"]} == by_index
    assert all(one["document"]["text"] == RERANK["documents"][one["index"]] for one in found["results"])
    assert len(httpx.post(ranker + "/v1/score", json=SCORE, timeout=20).json()["data"]) == 2


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_cohere(ranker, version):
    cohere = pytest.importorskip("cohere", reason="Cohere's client is tested where it is installed")
    client = {"v1": cohere.Client, "v2": cohere.ClientV2}[version](api_key="any", base_url=ranker)
    asked = {"model": NAMES["ranker"], "query": RERANK["query"], "documents": RERANK["documents"]}
    wanted = requests.post(ranker + "/v1/rerank", json=RERANK, timeout=20).json()["results"]
    more = {"v1": {"max_chunks_per_doc": 10}, "v2": {"max_tokens_per_doc": 4096, "priority": 3}}[version]
    for options in ({}, {"top_n": 2}, {"top_n": 10}, more):
        found = client.rerank(**asked, **options).results
        assert [one.index for one in found] == [one["index"] for one in wanted[: options.get("top_n")]]
        assert [one.relevance_score for one in found] == [one["relevance_score"] for one in wanted[: len(found)]]
    if version == "v1":
        documents = [{"text": text} for text in RERANK["documents"]]
        found = client.rerank(**{**asked, "documents": documents}, return_documents=True).results
        assert [one.document.text for one in found] == [one["document"]["text"] for one in wanted]
    with pytest.raises(cohere.BadRequestError) as failed:
        client.rerank(**{**asked, "documents": ["plot", ""]})
    assert failed.value.body["error"]["index"] == 1
    with pytest.raises(cohere.NotFoundError, match="does not exist"):
        client.rerank(**{**asked, "model": "rerank-v3.5"})


def test_openai(topics):
    openai = pytest.importorskip("openai", reason="OpenAI's client is tested where it is installed")
    client = openai.OpenAI(api_key="any", base_url=topics + "/v1", max_retries=0)
    assert [model.id for model in client.models.list()] == [NAMES["topics"]]
    found = client.post("/classify", body=VLLM_BATCH, cast_to=object)
    assert [one["index"] for one in found["data"]] == [0, 1]
    with pytest.raises(openai.BadRequestError, match="index 1"):
        client.post("/classify", body={"input": ["good film", ""]}, cast_to=object)
    with pytest.raises(openai.NotFoundError, match="no such route"):
        client.embeddings.create(model=NAMES["topics"], input="good film")


def test_bentoml(topics):
    with bentoml.SyncHTTPClient(topics, timeout=60) as client:
        found = client.classify(texts=["good film"], top_k=1)
    ((one,),) = found["predictions"]
    assert one["score"] == native(topics, "good film")[one["label"]]
    body = rb'{"texts": ["good film \ud800", "plot"]}'  # half a character costs the other text nothing
    answer = requests.post(f"{topics}/classify", data=body, headers={"Content-Type": "application/json"}, timeout=20)
    assert (answer.status_code, len(answer.json()["predictions"])) == (200, 2)
    answer = requests.post(f"{topics}/classify", json={"texts": ["good film", ""]}, timeout=20).json()
    assert [len(row) for row in answer["predictions"]] == [3, 0]
    assert [error["index"] for error in answer["errors"]] == [1]


@pytest.mark.parametrize("binary", [True, False])
def test_triton(topics, binary):
    with tritonhttp.InferenceServerClient(topics.removeprefix("http://")) as client:
        assert client.is_server_ready()
        assert client.is_model_ready(NAMES["topics"])
        texts = np.array(["good film", "ünïcode 中文", "a dull story"], dtype=object)
        tensor = tritonhttp.InferInput("text", [3], "BYTES")
        tensor.set_data_from_numpy(texts, binary_data=binary)
        offered = [output["name"] for output in client.get_model_metadata(NAMES["topics"])["outputs"]]
        for names in (None, ["label"], ["scores"], ["logits", "label"]):
            outputs = names and [tritonhttp.InferRequestedOutput(name, binary_data=binary) for name in names]
            found = client.infer(NAMES["topics"], [tensor], outputs=outputs, request_id="7")
            for name in names or ["scores", "label"]:
                assert name in offered
                assert len(found.as_numpy(name)) == 3
        found = client.infer(NAMES["topics"], [tensor])
        labels = MODELS["topics"].labels
        for i, text in enumerate(texts):
            scores = native(topics, text)
            assert found.as_numpy("scores")[i] == pytest.approx([scores[label] for label in labels], abs=1e-6)
            label = found.as_numpy("label")[i]
            assert (label.decode() if isinstance(label, bytes) else label) == max(scores, key=scores.get)


@pytest.mark.parametrize("binary", [True, False])
def test_triton_gets_the_best_classes_as_text(topics, binary):
    with tritonhttp.InferenceServerClient(topics.removeprefix("http://")) as client:
        assert "classification" in client.get_server_metadata()["extensions"]
        tensor = tritonhttp.InferInput("text", [1], "BYTES")
        tensor.set_data_from_numpy(np.array(["good film"], dtype=object))
        output = tritonhttp.InferRequestedOutput("scores", binary_data=binary, class_count=2)
        found = client.infer(NAMES["topics"], [tensor], outputs=[output]).as_numpy("scores")
    scores, labels = native(topics, "good film"), MODELS["topics"].labels
    wanted = sorted(scores, key=scores.get, reverse=True)[:2]
    texts = [one.decode() if isinstance(one, bytes) else one for one in found[0]]
    assert texts == [f"{scores[label]:f}:{labels.index(label)}:{label}" for label in wanted]


def test_triton_gets_errors_that_say_which_text(topics):
    with tritonhttp.InferenceServerClient(topics.removeprefix("http://")) as client:
        tensor = tritonhttp.InferInput("text", [2], "BYTES")
        tensor.set_data_from_numpy(np.array(["good", ""], dtype=object))
        with pytest.raises(tritonhttp.InferenceServerException, match="index 1"):
            client.infer(NAMES["topics"], [tensor])


def test_null_of_the_open_inference_protocol_is_a_key_that_is_left_out(topics):
    """As the models of MLServer's client write it."""
    url = f"{topics}/v2/models/{NAMES['topics']}/infer"
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["good film", "plot"]}
    null = {"id": None, "parameters": None, "inputs": [{**tensor, "parameters": None}]}
    plain = requests.post(url, json={"inputs": [tensor]}, timeout=20)
    assert plain.status_code == 200
    assert requests.post(url, json={**null, "outputs": None}, timeout=20).json() == plain.json()
    outputs = [{"name": name, "parameters": None} for name in ("scores", "label")]
    assert requests.post(url, json={**null, "outputs": outputs}, timeout=20).json() == plain.json()
    wrong = requests.post(url, json={"inputs": [{**tensor, "shape": [-1, -2]}]}, timeout=20)
    assert (wrong.status_code, "shape" in wrong.json()["error"]) == (400, True)


def test_behind_a_path(topics):
    """As a proxy sends it, with the path and without."""
    for url in (topics, topics + "/nlp"):
        assert native(url, "good film") == native(topics, "good film")
        page = requests.get(f"{url}/", timeout=20, allow_redirects=False)
        assert (page.status_code, page.headers["location"]) == (307, "/nlp/ui")
        assert "<html" in requests.get(f"{url}/ui", timeout=20).text
        assert requests.get(f"{url}/openapi.json", timeout=20).json()["servers"] == [{"url": "/nlp"}]
        assert requests.get(f"{url}/v2/models/{NAMES['topics']}/ready", timeout=20).json()["ready"]
        document = {"texts": ["good film"]}
        assert requests.post(f"{url}/classify", json=document, timeout=60).status_code == 200


def test_two_clients_with_lists_are_both_served(ranker):
    """Each sends lists of as many pairs as are allowed, without a pause; nothing is refused."""
    document = {"query": "good film " * 10, "texts": ["the plot was so dull " * 60] * 32}

    def ask(_):
        return [requests.post(ranker + "/rerank", json=document, timeout=30).status_code for _ in range(10)]

    with ThreadPoolExecutor(2) as pool:
        assert [code for codes in pool.map(ask, range(2)) for code in codes] == [200] * 20


def test_the_name_is_in_answers_and_metrics(topics):
    assert requests.get(topics + "/info", timeout=20).json()["model_id"] == NAMES["topics"]
    assert f'name="{NAMES["topics"]}"' in requests.get(topics + "/metrics", timeout=20).text
    assert requests.get(topics + "/v2/models/prunella", timeout=20).status_code == 404
