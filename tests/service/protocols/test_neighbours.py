"""One client's text never costs another client the answer: models that fail on some texts, and on all."""

import http.client
import json
import logging
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from bundles import make_failing_model
from starlette.testclient import TestClient
from test_server_process import PRUNELLA, running
from tiny import BAD, GOOD, OTHER
from watching import wait_until

from models.tokenizer import Tokenizer
from service.inference.inference_service import InferenceService
from service.model import isolation
from service.model.bundle import Bundle
from service.model.engine import Engine
from service.model.session import RuntimeSettings
from service.settings import Settings
from service.web.app import App

pytest_plugins = ["serving"]  # the fixture tiny_bundle
ROOT = Path(__file__).resolve().parents[3]
KNOWN = 5 + len({*GOOD, *BAD, *OTHER})  # tokens of the failing model: the special ones and the words, no letters
UNKNOWN = 1  # [UNK], of every sign: the failing model answers it with NaN
FAILS, IS_NAN = "zoo", "good film !"  # 5 tokens: in the bucket of short texts
WORDS = [*GOOD, *BAD, *OTHER]


def open_engine(folder):
    return Engine.open(Bundle.open(folder), RuntimeSettings(device="cpu"))


@pytest.fixture(scope="module")
def failing_bundle(tiny_bundle, tmp_path_factory):
    return make_failing_model(tiny_bundle, tmp_path_factory.mktemp("failing") / "bundle", KNOWN, UNKNOWN)


@pytest.fixture
def client(failing_bundle):
    with TestClient(App(InferenceService(open_engine(failing_bundle), Settings(device="cpu")))) as running_client:
        yield running_client


def texts(count, seed=0, most=12):
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(1, most))) for _ in range(count)]


# one text fails


@pytest.mark.parametrize("bad", [FAILS, IS_NAN])
def test_a_text_on_which_the_model_fails_has_an_error_of_its_own(client, bad):
    fine = texts(6)
    wanted = [client.post("/v1/classify", json={"text": text}).json()["predictions"] for text in fine]
    mixed = [*fine[:2], bad, *fine[2:5], bad, fine[5]]
    answer = client.post("/v1/classify", json={"texts": mixed})
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"] == [*wanted[:2], None, *wanted[2:5], None, wanted[5]]
    assert [(e["index"], e["kind"]) for e in answer.json()["errors"]] == [(2, "Backend"), (6, "Backend")]
    assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize("bad", [FAILS, IS_NAN])
def test_dialects_without_errors_of_single_texts_say_which_one_it_is(client, bad):
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["good film", bad]}
    for path, body in (
        ("/predict", {"inputs": [["good film"], [bad]]}), ("/", {"inputs": ["good film", bad]}),
        ("/v2/models/prunella/infer", {"inputs": [tensor]}),
    ):  # fmt: skip
        answer = client.post(path, json=body)
        assert answer.status_code == 500
        assert "index 1" in answer.json()["error"]
    answer = client.post("/v1/classify", json={"text": bad})
    assert (answer.status_code, answer.json()["kind"]) == (500, "Backend")


def test_other_clients_lose_no_answer(failing_bundle, tmp_path):
    """Three clients send texts that fail, six send others: over real sockets, one runner, so that they share runs."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PRUNELLA_")}
    environment = {**kept, "PYTHONPATH": str(ROOT), "PRUNELLA_RUNNERS": "1", "PRUNELLA_INLINE_MS": "0"}
    log = tmp_path / "log"
    with running([*PRUNELLA, "serve", str(failing_bundle), "--device", "cpu"], environment, log) as (_, url):
        host, port = url.removeprefix("http://").split(":")

        def ask(bodies):
            connection = http.client.HTTPConnection(host, int(port), timeout=30)
            found = []
            for body in bodies:
                connection.request("POST", "/v1/classify", json.dumps(body), {"Content-Type": "application/json"})
                answer = connection.getresponse()
                found.append((answer.status, json.loads(answer.read())))
            return found

        fine = [[{"text": text} for text in texts(60, seed, 4)] for seed in range(6)]
        bad = [[{"text": text} for text in (FAILS, IS_NAN) * 30]] * 3
        alone = {body["text"]: ask([body])[0][1]["predictions"] for bodies in fine for body in bodies}
        with ThreadPoolExecutor(9) as pool:
            answers = list(pool.map(ask, [*fine, *bad]))
        for bodies, found in zip(fine, answers, strict=False):
            assert {status for status, _ in found} == {200}
            assert [one["predictions"] for _, one in found] == [alone[body["text"]] for body in bodies]
        assert {status for found in answers[6:] for status, _ in found} == {500}
        metrics = http.client.HTTPConnection(host, int(port), timeout=30)
        metrics.request("GET", "/metrics")
        page = metrics.getresponse().read().decode()
        runs = next(x for x in page.splitlines() if x.startswith("prunella_batch_items_count "))
        assert float(runs.split()[-1]) < (6 + 6 + 3) * 60  # requests; texts did share runs
        ready = http.client.HTTPConnection(host, int(port), timeout=30)
        ready.request("GET", "/readyz")
        assert ready.getresponse().status == 200


# how often the model runs


class Model:
    """Fails on texts whose first id is 9; counts its runs."""

    def __init__(self, fails=lambda one: one == 9):
        self.health, self.probe, self.runs, self.fails = isolation.Health(), 1, [], fails

    def infer(self, work):
        self.runs.append(list(work))
        if any(self.fails(one) for one in work):
            raise RuntimeError("no row for this id")
        return np.array([[float(one), 0.0] for one in work])


@pytest.mark.parametrize("seed", range(20))
def test_every_other_text_is_answered_in_a_bounded_number_of_runs(seed):
    chance = random.Random(seed)
    work = [9 if chance.random() < seed / 20 else chance.randint(1, 8) for _ in range(chance.randint(1, 40))]
    model = Model()
    found = isolation.infer_isolated(model, work)
    assert found == [None if one == 9 else [float(one), 0.0] for one in work]
    probes = work.count(9) // isolation.UNHEALTHY_AFTER
    assert len(model.runs) <= 2 * len(work) - 1 + probes
    assert not model.health.unhealthy


def test_one_text_at_fault_costs_the_logarithm():
    model = Model()
    isolation.infer_isolated(model, [1] * 63 + [9])
    assert len(model.runs) <= 13


def test_a_model_that_fails_on_everything_is_not_asked_again_and_again():
    sick = True
    model = Model(fails=lambda one: sick)
    assert isolation.infer_isolated(model, [1] * 64) == [None] * 64
    assert model.health.trouble() is not None
    assert len(model.runs) < 30
    before = len(model.runs)
    for _ in range(50):
        assert isolation.infer_isolated(model, [1] * 64) == [None] * 64
    assert len(model.runs) == before + 50
    sick = False
    assert isolation.infer_isolated(model, [1, 2]) == [[1.0, 0.0], [2.0, 0.0]]
    assert model.health.trouble() is None


@pytest.mark.parametrize("wrong", [np.zeros((1, 2)), np.zeros((3, 2))])
def test_a_model_that_gives_another_number_of_answers_fails(wrong):
    model = Model()
    model.infer = lambda work: wrong
    assert isolation.infer_isolated(model, [1, 2]) in ([None, None], [[0.0, 0.0]] * 2)  # one by one it may be right


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_no_number_is_a_failure(value):
    model = Model()
    model.infer = lambda work: np.array([[value, 0.0] if one == 9 else [1.0, 0.0] for one in work])
    assert isolation.infer_isolated(model, [1, 9, 2]) == [[1.0, 0.0], None, [1.0, 0.0]]


def test_a_neighbour_that_spoils_the_whole_run_is_left_out():
    model = Model()
    model.infer = lambda work: np.full((len(work), 2), np.nan if 9 in work else 1.0)
    assert isolation.infer_isolated(model, [1, 2, 9, 3]) == [[1.0, 1.0], [1.0, 1.0], None, [1.0, 1.0]]


class Broken:
    """A real engine whose session stops to answer, and comes back."""

    def __init__(self, engine):
        self._engine, self.works, self.health = engine, True, isolation.Health()

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def infer(self, encoded):
        if not self.works:
            raise RuntimeError("the device was lost")
        return self._engine.infer(encoded)


def test_a_sick_session_fails_the_probes_until_it_answers_again(tiny_bundle, caplog):
    broken = Broken(open_engine(tiny_bundle))
    with TestClient(App(InferenceService(broken, Settings(device="cpu"))), raise_server_exceptions=False) as client:
        broken.works = False
        with caplog.at_level(logging.ERROR):
            codes = {client.post("/v1/classify", json={"text": "good film"}).status_code for _ in range(10)}
        assert codes == {500}
        for path in ("/livez", "/readyz"):
            assert client.get(path).status_code == 503
            assert "fails on every text" in client.get(path).json()["status"]
        broken.works = True  # nobody asks: it is tried without that
        wait_until(lambda: client.get("/readyz").status_code == 200, 20)


# the tokenizer fails


def write_tokenizer_without_unknown(folder):
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece({"[PAD]": 0, "good": 1, "film": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.save(str(folder / "tokenizer.json"))


def test_a_text_on_which_the_tokenizer_fails_costs_no_other(tmp_path):
    write_tokenizer_without_unknown(tmp_path)
    tokenizer = Tokenizer.open(tmp_path, 8)
    found = isolation.apply_isolated(tokenizer.encode, [("good",), ("zebra",), ("good film",)])
    assert [None if one is None else one.ids for one in found] == [[1], None, [1, 2]]


@pytest.mark.parametrize("chars", [10, 5000, 50_000], ids=["event loop", "short lane", "long lane"])
def test_over_http_too(tiny_bundle, monkeypatch, chars):
    engine = open_engine(tiny_bundle)
    whole = engine.tokenize

    def tokenize(rows, cut):
        if any("zebra" in row[0] for row in rows):
            raise RuntimeError("no unknown token")
        return whole(rows, cut)

    monkeypatch.setattr(engine, "tokenize", tokenize)
    long = "good " * (chars // 5)
    with TestClient(App(InferenceService(engine, Settings(device="cpu")))) as client:
        answer = client.post("/v1/classify", json={"texts": [long, f"zebra {long}", long]})
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert [row is None for row in found["predictions"]] == [False, True, False]
        assert [e["index"] for e in found["errors"]] == [1]
        assert "tokenizer" in found["errors"][0]["error"]
