"""A candidate in the shadow: whatever it does, live answers neither wait for it nor fail with it."""

import logging
import threading
from contextlib import contextmanager

import pytest
from bundles import copy_with_note
from starlette.testclient import TestClient
from watching import wait_until

import service.operations.shadow
from service.inference.inference_service import InferenceService
from service.model.bundle import Bundle
from service.model.engine import Engine
from service.model.session import RuntimeSettings
from service.settings import Settings
from service.web.app import App

pytest_plugins = ["serving"]  # the fixture tiny_bundle
ADMIN = {"Authorization": "Bearer admin-token-1"}
TEXT = {"text": "good film"}


@pytest.fixture(scope="module")
def engine(tiny_bundle):
    return Engine.open(Bundle.open(tiny_bundle), RuntimeSettings(device="cpu"))


@contextmanager
def serving(engine, candidate):
    """Serve `engine`, with every request compared with `candidate`."""
    inference = InferenceService(engine, Settings(device="cpu", admin_token="admin-token-1", runners=1))
    inference.model_slots.candidate, inference.model_slots.share = candidate, 1.0
    with TestClient(App(inference)) as client:
        client.inference = inference
        yield client


class Candidate:
    """Another engine, whose tokenizer or model can be held or spoilt."""

    def __init__(self, engine):
        self._engine, self.serial, self.health = engine, engine.serial + 1_000_000, type(engine.health)()
        self.go, self.threads, self.problem = threading.Event(), [], None

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def tokenize(self, rows, cut):
        self.threads.append(threading.current_thread().name)
        self.go.wait(30)
        if self.problem == "tokenizer":
            raise RuntimeError("no such word")
        return self._engine.tokenize(rows, cut)

    def infer(self, encoded):
        if self.problem == "model":
            raise RuntimeError("no such row")
        return self._engine.infer(encoded)


def metric(client, name):
    return next(float(line.split()[-1]) for line in client.get("/metrics").text.splitlines() if line.startswith(name))


def compared(client):
    return client.get("/admin/models", headers=ADMIN).json()["shadow"]["compared"]


def test_live_answers_do_not_wait_for_its_tokenizer(engine):
    candidate = Candidate(engine)
    with serving(engine, candidate) as client:
        for _ in range(5):
            assert client.post("/v1/classify", json=TEXT).status_code == 200  # all while the candidate hangs
        wait_until(lambda: candidate.threads, 20)
        candidate.go.set()
        wait_until(lambda: compared(client) == 5, 20)
    assert set(candidate.threads) == {"shadow_0"}


@pytest.mark.parametrize("problem", ["tokenizer", "model"])
def test_its_errors_are_counted_and_nothing_else(engine, problem, caplog):
    candidate = Candidate(engine)
    candidate.problem = problem
    candidate.go.set()
    with serving(engine, candidate) as client, caplog.at_level(logging.ERROR, "prunella"):
        wanted = client.post("/v1/classify", json=TEXT).json()["predictions"]
        for _ in range(20):
            assert client.post("/v1/classify", json=TEXT).json()["predictions"] == wanted
        wait_until(lambda: client.inference.shadow.report()["failed"] == 21, 20)
        assert metric(client, "prunella_shadow_failures_total") == 21
        assert client.get("/readyz").status_code == 200
        assert compared(client) == 0
    assert "no such" in caplog.text


def test_a_candidate_with_other_labels_than_a_model_that_was_swapped_in_is_skipped(engine):
    candidate = Candidate(engine)
    candidate.infer = lambda encoded: engine.infer(encoded)[:, :1]
    candidate.go.set()
    with serving(engine, candidate) as client:
        assert client.post("/v1/classify", json=TEXT).status_code == 200
        wait_until(lambda: client.inference.shadow.report()["skipped"] == 1, 20)
        assert compared(client) == 0


def test_what_has_no_room_is_skipped_and_counted(engine, monkeypatch):
    monkeypatch.setattr(service.operations.shadow, "MOST", 8)
    candidate = Candidate(engine)
    with serving(engine, candidate) as client:
        for _ in range(4):
            assert client.post("/v1/classify", json={"texts": ["good film"] * 4}).status_code == 200
        assert client.inference.shadow.report()["skipped"] == 8
        assert metric(client, "prunella_shadow_skipped_total") == 8
        candidate.go.set()
        wait_until(lambda: compared(client) == 8, 20)
        assert client.post("/v1/classify", json=TEXT).status_code == 200  # there is room again
        wait_until(lambda: compared(client) == 9, 20)


def test_long_requests_are_not_compared(engine):
    candidate = Candidate(engine)
    candidate.go.set()
    with serving(engine, candidate) as client:
        assert client.post("/v1/classify", json={"text": "good film " * 5000}).status_code == 200
        assert client.inference.shadow.report()["skipped"] == 1
        assert candidate.threads == []


def test_texts_that_the_live_model_fails_on_are_not_compared(engine):
    class Live(Candidate):
        def infer(self, encoded):
            if any(len(one.ids) == 3 for one in encoded):
                raise RuntimeError("no row")
            return self._engine.infer(encoded)

    live, candidate = Live(engine), Candidate(engine)
    live.go.set()
    candidate.go.set()
    with serving(live, candidate) as client:
        answer = client.post("/v1/classify", json={"texts": ["good film", "good", "a dull story"]})
        assert [row is None for row in answer.json()["predictions"]] == [False, True, False]
        wait_until(lambda: compared(client) == 2, 20)
        assert client.inference.shadow.report()["failed"] == 0


def test_a_change_that_is_refused_keeps_the_comparison(engine, tiny_bundle, tmp_path):
    candidate = Candidate(engine)
    candidate.go.set()
    other = tmp_path / "other"
    copy_with_note(tiny_bundle, other, "another")
    with serving(engine, candidate) as client:
        client.post("/v1/classify", json=TEXT)
        wait_until(lambda: compared(client) == 1, 20)
        with client.inference.model_slots._exclusive():  # another change is under way
            answer = client.post("/admin/shadow", json={"bundle": str(other)}, headers=ADMIN)
            assert answer.status_code == 409
        missing = client.post("/admin/shadow", json={"bundle": str(tmp_path / "none")}, headers=ADMIN)
        assert missing.status_code == 422
        assert compared(client) == 1
        assert client.post("/admin/shadow", json={"bundle": str(other)}, headers=ADMIN).status_code == 200
        assert compared(client) == 0


def test_the_end_does_not_wait_for_it(engine):
    candidate = Candidate(engine)
    with serving(engine, candidate) as client:
        for _ in range(3):
            client.post("/v1/classify", json=TEXT)
        wait_until(lambda: candidate.threads, 20)
        threading.Timer(0.2, candidate.go.set).start()
    assert len(candidate.threads) == 1  # the others were dropped
