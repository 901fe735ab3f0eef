"""The student also answers some texts of the gate: disagreements are counted, and no live answer waits or fails."""

import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from bundles import copy_with_note
from gates import ALWAYS, add_gate
from starlette.testclient import TestClient
from test_server_process import PRUNELLA, running
from tiny import tiny_texts
from watching import wait_until

import service.cascade.gate_check
from service.cascade.drift_detector import disagreement_bound
from service.cascade.gate import GateInfo
from service.inference.inference_service import InferenceService
from service.model.bundle import Bundle
from service.model.engine import Engine
from service.model.session import RuntimeSettings
from service.settings import Settings
from service.web.app import App

pytest_plugins = ["serving"]  # the fixture tiny_bundle
ROOT = Path(__file__).resolve().parents[3]
TEXTS = sorted({row[0] for row in tiny_texts(64).rows})


def opened(bundle):
    return Engine.open(Bundle.open(bundle), RuntimeSettings(device="cpu"))


@pytest.fixture(scope="module")
def engine(tiny_bundle, tmp_path_factory):
    """A gate that answers every text, and agreed with the student on all rows on which its threshold was found."""
    folder = tmp_path_factory.mktemp("always")
    return opened(add_gate(tiny_bundle, folder / "bundle", thresholds=(ALWAYS,), disagreements=0))


@pytest.fixture(scope="module")
def half(tiny_bundle, tmp_path_factory):
    """A gate that answers some of TEXTS."""
    return opened(add_gate(tiny_bundle, tmp_path_factory.mktemp("half") / "bundle", disagreements=499))


class Held:
    """An engine whose model waits until it may go, or fails."""

    def __init__(self, engine):
        self._engine, self.go, self.reached, self.fails = engine, threading.Event(), threading.Event(), False

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def infer(self, encoded):
        self.reached.set()
        self.go.wait(30)
        if self.fails:
            raise RuntimeError("no such row")
        return self._engine.infer(encoded)


@contextmanager
def serving(engine, **settings):
    settings = {"device": "cpu", "runners": 1, "gate_check_share": 1.0, **settings}
    inference = InferenceService(engine, Settings(**settings))
    with TestClient(App(inference)) as client:
        client.inference = inference
        yield client


def metric(client, name):
    page = client.get("/metrics").text
    return next((float(line.split()[-1]) for line in page.splitlines() if line.startswith(name)), 0.0)


def ask(client, text, **options):
    answer = client.post("/v1/classify", json={"text": text, **options})
    assert answer.status_code == 200, answer.text
    return answer.json()


def best(engine, text):
    """The gate's and the student's best labels."""
    (encoded,) = engine.encode([(text,)])
    return engine.gate.decide(encoded.ids).label, int(engine.infer([encoded])[0].argmax())


def text_where(engine, agrees):
    found = (text for text in TEXTS if (len(set(best(engine, text))) == 1) == agrees)
    return next(found)


def checked(client):
    return metric(client, "prunella_gate_checked_total")


def test_a_share_of_the_gates_texts_is_checked_and_disagreements_are_counted(engine):
    with serving(engine) as client:
        for text in TEXTS:
            assert ask(client, text)["stage"] == "gate"
        wait_until(lambda: checked(client) == len(TEXTS), 20)
        wanted = sum(len(set(best(engine, text))) == 2 for text in TEXTS)
        assert 0 < wanted < len(TEXTS)
        assert metric(client, "prunella_gate_disagreements_total") == wanted
        assert metric(client, "prunella_gate_disagreement ") == pytest.approx(wanted / len(TEXTS))
    with serving(engine, gate_check_share=0.25) as client:
        for _ in range(4):
            for start in range(0, len(TEXTS), 16):
                client.post("/v1/classify", json={"texts": TEXTS[start : start + 16]})
        wait_until(lambda: checked(client) > 0, 20)
        assert checked(client) < 2 * len(TEXTS)
    with serving(engine, gate_check_share=0.0) as client:
        ask(client, TEXTS[0])
        assert checked(client) == 0


def test_texts_of_the_student_are_not_checked(half):
    with serving(half) as client:
        answer = client.post("/v1/classify", json={"texts": TEXTS[:32]}).json()
        ask(client, TEXTS[0], cascade=False)
        assert 0 < answer["stage"].count("gate") < 32
        wait_until(lambda: checked(client) == answer["stage"].count("gate"), 20)


def test_a_drift_is_a_metric_and_one_line_of_the_log_and_it_ends(engine, caplog):
    agrees, disagrees = text_where(engine, True), text_where(engine, False)

    def send(text, count):
        for _ in range(count):
            before = checked(client)
            ask(client, text)
            wait_until(lambda before=before: checked(client) > before, 20)

    with serving(engine) as client, caplog.at_level(logging.INFO, "prunella"):
        assert metric(client, "prunella_gate_disagreement_bound") == pytest.approx(1 - 0.05 ** (1 / 500))
        send(disagrees, 2)
        assert metric(client, "prunella_gate_drift") == 0  # too few to say
        send(disagrees, 18)
        assert metric(client, "prunella_gate_drift") == 1
        (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert warning.message.startswith("drift: the gate's answers differ from the student's more often")
        assert warning.disagreement == 1.0
        assert warning.bound == pytest.approx(0.006, abs=1e-4)
        client.inference.gate_check._detector._sums[:] = [0.5] * 3  # as after thousands of agreements
        send(agrees, 1)
        while metric(client, "prunella_gate_drift"):
            send(agrees, 20)
        assert "the drift has ended" in caplog.text
        assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


def test_a_gate_that_disagreed_as_often_before_does_not_drift(half, caplog):
    assert disagreement_bound(half.gate.info) > 0.99
    with serving(half) as client, caplog.at_level(logging.WARNING, "prunella"):
        for start in range(0, len(TEXTS), 16):
            client.post("/v1/classify", json={"texts": TEXTS[start : start + 16]})
        wait_until(lambda: checked(client) > 5, 20)
        assert metric(client, "prunella_gate_drift") == 0
    assert "drift" not in caplog.text


def test_a_gate_without_a_number_of_disagreements_is_counted_and_never_drifts(tiny_bundle, tmp_path, caplog):
    engine = opened(add_gate(tiny_bundle, tmp_path / "bundle", thresholds=(ALWAYS,)))
    with serving(engine) as client, caplog.at_level(logging.WARNING, "prunella"):
        for text in TEXTS:
            ask(client, text)
        wait_until(lambda: checked(client) == len(TEXTS), 20)
        assert metric(client, "prunella_gate_drift") == 0
        assert client.get("/info").json()["cascade"]["disagreement_bound"] is None
    assert "gate.json has no number of disagreements" in caplog.text


def test_live_answers_do_not_wait_for_the_student_and_what_has_no_room_is_skipped(engine, monkeypatch):
    monkeypatch.setattr(service.cascade.gate_check, "MOST", 4)
    held = Held(engine)
    with serving(held) as client:
        ask(client, TEXTS[0])
        assert held.reached.wait(20)
        for _ in range(6):
            assert ask(client, TEXTS[0])["stage"] == "gate"  # all while the student hangs
        assert metric(client, "prunella_gate_check_skipped_total") == 2
        held.go.set()
        wait_until(lambda: checked(client) == 5, 20)


def test_errors_of_the_student_are_counted_and_nothing_else(engine):
    held = Held(engine)
    held.fails = True
    held.go.set()
    with serving(held) as client:
        for _ in range(3):
            assert ask(client, TEXTS[0])["stage"] == "gate"
        wait_until(lambda: metric(client, "prunella_gate_check_failures_total") == 3, 20)
        assert client.get("/readyz").status_code == 200
        assert checked(client) == 0


def test_the_gate_answers_while_the_students_queue_is_too_long(half):
    """Admission asks for the model's queue only where the model is needed."""
    stages = {text: half.gate.decide(half.encode([(text,)])[0].ids).answered for text in TEXTS}
    easy, hard = (next(text for text in TEXTS if stages[text] is answered) for answered in (True, False))
    held = Held(half)
    settings = {"gate_check_share": 0.0, "max_queue": 1, "inline_ms": 0}
    with serving(held, **settings) as client, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(ask, client, hard)]
        assert held.reached.wait(20)
        waiting.append(pool.submit(ask, client, hard))
        wait_until(lambda: client.inference.runners.waiting() == 1, 20)
        refused = client.post("/v1/classify", json={"text": hard})
        assert (refused.status_code, refused.json()["kind"]) == (429, "Overloaded")
        assert metric(client, 'prunella_shed_total{reason="queue"}') == 1
        assert ask(client, easy)["stage"] == "gate"
        late = client.post("/v1/classify", json={"text": easy}, headers={"X-Request-Timeout-Ms": "1000"})
        assert late.json()["stage"] == "gate"
        held.go.set()
        assert [one.result()["stage"] for one in waiting] == ["student"] * 2


def test_a_text_left_by_the_gate_keeps_its_deadline(half):
    hard = next(text for text in TEXTS if not half.gate.decide(half.encode([(text,)])[0].ids).answered)
    held = Held(half)
    with serving(held, inline_ms=0) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, client, hard)
        assert held.reached.wait(20)
        texts = {"texts": [hard, hard]}
        late = client.post("/v1/classify", json=texts, headers={"X-Request-Timeout-Ms": "100"})
        assert (late.status_code, late.json()["kind"]) == (429, "Timeout")
        held.go.set()
        assert first.result()["stage"] == "student"


def test_a_swap_changes_the_gate_with_the_model_and_begins_to_count_again(engine, tiny_bundle, tmp_path):
    with serving(engine) as client:
        slots = client.inference.model_slots
        for _ in range(20):
            ask(client, text_where(engine, False))
        wait_until(lambda: metric(client, "prunella_gate_drift") == 1, 20)
        slots.swap(tiny_bundle)
        assert "stage" not in ask(client, TEXTS[0])
        assert metric(client, "prunella_gate_drift") == 0
        assert client.get("/info").json()["cascade"] is None
        slots.roll_back()
        assert ask(client, TEXTS[0])["stage"] == "gate"
        assert metric(client, "prunella_gate_drift") == 0
        for _ in range(20):
            ask(client, text_where(engine, False))
        wait_until(lambda: metric(client, "prunella_gate_drift") == 1, 20)  # found again
        other = tmp_path / "other"
        copy_with_note(engine.bundle.folder.path, other, "another")
        slots.swap(other)
        assert ask(client, TEXTS[0])["stage"] == "gate"
        wait_until(lambda: client.inference.gate_check._serial == slots.current.serial, 20)


def test_the_metrics_of_several_workers_are_those_of_all(engine, tmp_path):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PRUNELLA_", "BENTOML_"))}
    settings = {"PRUNELLA_WORKERS": "2", "PRUNELLA_RUNNERS": "1", "PRUNELLA_GATE_CHECK_SHARE": "1"}
    environment = {**kept, "PYTHONPATH": str(ROOT), **settings}
    command = [*PRUNELLA, "serve", str(engine.bundle.folder.path), "--device", "cpu"]
    text = text_where(engine, False)
    with running(command, environment, tmp_path / "log") as (_, url):

        def metrics():
            page = requests.get(f"{url}/metrics", timeout=20).text
            rows = [line.rpartition(" ") for line in page.splitlines() if line[0] != "#"]
            return {key: float(value) for key, _, value in rows}

        for _ in range(60):  # a connection each: the kernel spreads them over the workers
            assert requests.post(f"{url}/v1/classify", json={"text": text}, timeout=20).json()["stage"] == "gate"
        wait_until(lambda: metrics()["prunella_gate_checked_total"] == 60, 20)
        wanted = {
            "disagreements_total": 60,
            "disagreement": 1,
            "drift": 1,
            "seconds_count": 60,
            "expected_share": 0.5,
        }
        told = metrics()
        assert {name: told[f"prunella_gate_{name}"] for name in wanted} == wanted
        assert told['prunella_cascade_texts_total{stage="gate"}'] == 60
        assert "drift: the gate" in (tmp_path / "log").read_text()


def test_a_candidate_in_the_shadow_is_compared_with_the_student_only(half, tiny_bundle):
    with serving(half, gate_check_share=0.0) as client:
        slots = client.inference.model_slots
        slots.candidate, slots.share = opened(tiny_bundle), 1.0
        answer = client.post("/v1/classify", json={"texts": TEXTS[:32]}).json()
        count = answer["stage"].count("student")
        assert 0 < count < 32
        wait_until(lambda: client.inference.shadow.report()["compared"] == count, 20)
        assert client.inference.shadow.report()["largest_drift"] < 1e-6  # both have the same student


@pytest.mark.parametrize(("events", "bound"), [(None, None), (500, None), (0, 0.00597), (10, 0.03369)])
def test_the_bound_is_the_upper_limit_of_the_rate_on_the_rows_of_the_threshold(engine, events, bound):
    info = GateInfo.model_validate(engine.gate.info.model_dump() | {"disagreements": events})
    assert disagreement_bound(info) == (None if bound is None else pytest.approx(bound, abs=1e-5))
