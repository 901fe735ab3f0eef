"""Errors have the form of the protocol that path and keys say, also of a request that is refused unread."""

import json
import time

import pytest
from starlette.testclient import TestClient
from test_golden import open_service

from service.protocols import BadRequest, hf, native, oip, pair_scores, rerank, tei, vertex, vllm
from service.protocols.json_text import keys_of
from service.web.app import App

pytest_plugins = ["serving"]  # the fixture tiny_bundle
KEY = "let-me-in-please"
KEYS = {
    "native": {"error", "kind"},
    "openai": {"error"},
    "tei": {"error", "error_type"},
    "plain": {"error"},
}
TENSOR = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["good", "film"]}
FORMS = [  # model, path, body, the form of its errors, the list of its texts
    ("topics", "/v1/classify", {"texts": ["good", "film"]}, "native", "texts"),
    ("topics", "/v1/classify", {"request_id": "a", "input": ["good", "film"]}, "openai", "input"),
    ("topics", "/classify", {"input": ["good", "film"]}, "openai", "input"),
    ("topics", "/predict", {"inputs": [["good"], ["film"]]}, "tei", "inputs"),
    ("topics", "/", {"inputs": ["good", "film"]}, "plain", "inputs"),
    ("topics", "/invocations", {"inputs": [["good"], ["film"]]}, "tei", "inputs"),
    ("topics", "/invocations", {"inputs": ["good", "film"], "parameters": {}}, "plain", "inputs"),
    ("topics", "/invocations", {"input": ["good", "film"]}, "openai", "input"),
    ("topics", "/invocations", {"instances": [{"inputs": "good"}, "film"]}, "plain", "instances"),
    ("topics", "/invocations", {"texts": ["good", "film"]}, "native", "texts"),
    ("topics", "/v2/models/topics/infer", {"inputs": [TENSOR]}, "plain", None),
    ("topics", "/tokenize", {"prompt": "good film"}, "openai", None),
    ("ranker", "/score", {"queries": "good", "documents": ["film", "plot"]}, "openai", "documents"),
    ("ranker", "/rerank", {"query": "good", "documents": ["film", "plot"]}, "openai", "documents"),
    ("ranker", "/v2/rerank", {"query": "good", "documents": ["film", "plot"]}, "openai", "documents"),
    ("ranker", "/rerank", {"query": "good", "texts": ["film", "plot"]}, "tei", "texts"),
    ("ranker", "/vertex", {"instances": [{"text": "good", "text_pair": "film"}]}, "plain", None),
    ("ranker", "/vertex", {"query": "good", "texts": ["film", "plot"]}, "tei", "texts"),
    ("ranker", "/predict", {"inputs": [["good", "film"]]}, "tei", None),
]


@pytest.fixture(scope="module")
def clients(tiny_bundle, tmp_path_factory):
    """Clients of a server for each model, with a key and small limits."""
    folder = tmp_path_factory.mktemp("forms")
    settings = {"api_key": KEY, "max_body_bytes": 1000, "max_batch": 4, "predict_route": "/vertex"}
    opened = {
        model: TestClient(App(open_service(tiny_bundle, folder, model, settings)), headers={"X-API-Key": KEY})
        for model in ("topics", "ranker")
    }
    for one in opened.values():
        one.__enter__()
    yield opened
    for one in opened.values():
        one.__exit__(None, None, None)


def check(answer, status, form, index=None):
    assert answer.status_code == (400 if (form, status) == ("openai", 422) else status), answer.text
    document = answer.json()
    assert document.keys() - {"index"} == KEYS[form]
    if form == "openai":
        assert document["error"].keys() - {"index"} == {"message", "type", "param", "code"}
        assert document["error"]["code"] == answer.status_code
        document = document["error"]
    else:
        assert isinstance(document["error"], str)
    assert document.get("index") == index


@pytest.mark.parametrize(("model", "path", "body", "form", "texts"), FORMS)
def test_every_error_of_a_request_has_its_form(clients, model, path, body, form, texts):
    ask, text = clients[model], json.dumps(body)
    as_json = {"Content-Type": "application/json"}
    assert ask.post(path, content=text, headers=as_json).status_code == 200
    check(ask.post(path, content=text, headers={**as_json, "X-API-Key": "wrong"}), 401, form)
    check(ask.post(path, content=text, headers={"Content-Type": "text/plain"}), 415, form)
    check(ask.post(path, content=text + " " * 1000, headers=as_json), 413, form)
    check(ask.post(path, content=(part for part in (text.encode(), b" " * 1000)), headers=as_json), 413, form)
    check(ask.post(path, content=text[:-2], headers=as_json), 400, form)
    check(ask.post(path, content=text.replace("{", "{,", 1), headers=as_json), 400, form)
    check(ask.post(path, content=text, headers={**as_json, "X-Request-Timeout-Ms": "soon"}), 422, form)
    if texts is not None:
        check(ask.post(path, json={**body, texts: body[texts] * 3}), 413, form)
        wrong = ask.post(path, json={**body, texts: [body[texts][0], 5]})
        check(wrong, 422, form, index=1)


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/classify", "openai"), ("/v1/classify", "native"), ("/score", "openai"), ("/rerank", "openai"),
        ("/predict", "tei"), ("/", "plain"), ("/invocations", "tei"), ("/v2/models/topics/infer", "plain"),
        ("/v2/models/topics", "plain"), ("/info", "native"), ("/v1/models", "openai"), ("/vertex", "plain"),
    ],
)  # fmt: skip
def test_where_no_key_says_it_the_path_says_the_form(clients, path, form):
    check(clients["topics"].put(path), 405, form)
    check(clients["topics"].put(path, headers={"X-API-Key": "wrong"}), 401, form)


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/v1/embeddings", "openai"),
        ("/v2/repository/index", "plain"),
        ("/v2/models/x", "plain"),
        ("/nowhere", "native"),
    ],
)
def test_an_unknown_path_is_refused_in_the_form_of_its_neighbours(clients, path, form):
    check(clients["topics"].get(path), 404, form)


def test_a_slash_at_the_end_of_a_path_makes_no_difference(clients):
    for path in ("/classify/", "/v1/classify/", "/v1/classify//"):
        assert clients["topics"].post(path, json={"input": "good film"}).json()["object"] == "list"
    assert clients["topics"].get("/v2/models/topics/").json()["name"] == "topics"


@pytest.mark.parametrize(
    ("start", "keys"),
    [
        (b'{"a": 1, "b": [{"c": 2}], "d": {"e": 3}}', ["a", "b", "d"]),
        (b'{"text": "\\"input\\": 1", "b": "c"', ["text", "b"]),
        (b'{"text": "no end \\', ["text"]), (b'{"text"', []), (b'["text", {"input": 1}]', []), (b"", []),
        (b'{,"a":\xff}', ["a"]), (b'}}{"a": 1}', []), (b'{"\xff": 1}', ["\ufffd"]),
    ],
)  # fmt: skip
def test_the_keys_of_a_broken_object(start, keys):
    assert list(keys_of(start)) == keys


@pytest.mark.parametrize("start", [b'"', b'\\"', b'{"', b"\\", b'"\\'])
def test_the_keys_of_nonsense_are_found_in_linear_time(start):
    before = time.perf_counter()
    keys_of(start * 65_536)
    assert time.perf_counter() - before < 2  # 10 ms; a search that tries every start again takes minutes


@pytest.mark.parametrize(
    ("encoding", "status", "said"),
    [("utf-8-sig", 200, ""), ("utf-16", 400, "UTF-16"), ("utf-16-le", 400, "UTF-16"), ("utf-32", 400, "UTF-32"),
     ("latin-1", 400, "not UTF-8: byte 0xe9 at 13")],
)  # fmt: skip
def test_the_error_of_another_encoding_says_so(clients, encoding, status, said):
    body = '{"text": "caf\u00e9"}'.encode(encoding)
    answer = clients["topics"].post("/v1/classify", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, said in answer.text) == (status, True)


@pytest.mark.parametrize("coding", ["identity", "Identity", ""])
def test_a_body_whose_coding_is_none_is_read(clients, coding):
    headers = {"Content-Encoding": coding}
    assert clients["topics"].post("/v1/classify", json={"text": "good film"}, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("protocol", "document", "said"),
    [
        (native, [1], "the body must be a JSON object"),
        (oip, "text", "the body must be a JSON object"),
        (native, {}, "the document: wanted one of text, texts and pairs"),
        (tei, {"inputs": [["a"], 5]}, "inputs: wanted a text, a pair, or a batch of lists (the text at index 1)"),
        (hf, {"inputs": 5, "options": 5}, "inputs: wanted a text, a pair, or several; options: Input should be a"),
        (
            hf,
            {"inputs": ["a", {"texts": "b"}]},
            "inputs.1.text: Field required; inputs.1.texts: unknown key (the text",
        ),
        (pair_scores, {"text_1": "a", "text_2": 5}, "text_2: wanted a text, or several"),
        (
            rerank,
            {"query": "a", "documents": ["b", 5]},
            "documents: wanted texts, or objects with `text` (the text at",
        ),
        (vertex, {"instances": [{"a": 1}]}, "instances.0.a: unknown key (the text at index 0)"),
        (
            vllm,
            {"input": 5, "priority": []},
            "input: wanted a text, several texts, the token ids of a text, or those",
        ),
    ],
)
def test_the_error_of_a_wrong_body_is_a_sentence_about_what_was_wanted(protocol, document, said):
    """Not pydantic's list of all kinds of values that the value is not."""
    with pytest.raises(BadRequest) as failed:
        protocol.read(document)
    assert said in failed.value.message
    assert "valid string" not in failed.value.message


def test_csv_of_sagemaker_is_a_list_in_the_form_of_hugging_face(clients):
    def ask(model, body, path="/invocations"):
        return clients[model].post(path, content=body, headers={"Content-Type": "text/csv; charset=utf-8"})

    wanted = clients["topics"].post("/", json={"inputs": ["good film", 'a "dull", plot']}).json()
    for body in (
        b'inputs\r\ngood film\r\n"a ""dull"", plot"\r\n',
        b'\xef\xbb\xbfid,text\n1,good film\n\n2,"a ""dull"", plot"',
    ):
        assert ask("topics", body).json() == wanted
    pairs = {"inputs": [{"text": "good", "text_pair": "film"}]}
    assert ask("ranker", b"inputs,text_pair\ngood,film\n").json() == clients["ranker"].post("/", json=pairs).json()
    for body, said, index in (
        (b"good film\nplot\n", "must name the column `inputs`", None), (b"", "must name the column", None),
        (b"inputs\ngood film\na,b\n", "2 columns instead of 1", 1), (b'inputs\n"a', "not valid CSV", None),
        (b"inputs\n\xff\n", "not valid CSV", None), (b"inputs\n", "cannot be empty", None),
        (b"inputs\ngood\n\" \"\n", "a text is empty", 1),
    ):  # fmt: skip
        refused = ask("topics", body)
        assert (refused.status_code in (400, 422), said in refused.json()["error"]) == (True, True), refused.text
        assert refused.json().get("index") == index
    assert ask("topics", b"inputs\n" + b"a" * 1000).status_code == 413
    assert ask("topics", b"inputs\ngood\n", path="/").status_code == 415
