"""Classifier: a bundle in this process answers as the server does, without torch, and says what it cannot answer."""

import json
import os
import pickle
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from bundles import make_tiny_bundle
from gates import ALWAYS, NEVER, add_gate
from pandas import DataFrame, Series
from starlette.testclient import TestClient
from tiny import BAD, GOOD, OTHER

from models.errors import FolderError, InputError
from prunella import Classifier
from service.inference.inference_service import InferenceService
from service.model.bundle import Bundle
from service.model.engine import Engine
from service.model.session import RuntimeSettings
from service.settings import Settings
from service.web.app import App

pytest_plugins = ["serving"]  # the fixtures tiny_bundle and pair_bundle
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def multi_bundle(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("dynamic"), recipe="dynamic")


def texts_of(count, pair=False, seed=0):
    chance = random.Random(seed)
    rows = [
        tuple(" ".join(chance.choices([*GOOD, *BAD, *OTHER], k=chance.randint(1, 40))) for _ in range(2))
        for _ in range(count)
    ]
    return rows if pair else [first for first, _ in rows]


def answers_of_the_server(bundle, texts, pair=False):
    engine = Engine.open(Bundle.open(bundle), RuntimeSettings(device="cpu"))
    predictions = []
    with TestClient(App(InferenceService(engine, Settings(device="cpu", free_queue=10**6)))) as client:
        for start in range(0, len(texts), 16):
            body = {"pairs" if pair else "texts": texts[start : start + 16]}
            predictions += client.post("/v1/classify", json=body).raise_for_status().json()["predictions"]
    return predictions


KINDS = [("tiny_bundle", False), ("pair_bundle", True), ("multi_bundle", False), ("gated_bundle", False)]


@pytest.mark.parametrize(("name", "pair"), KINDS)
def test_its_answers_are_the_servers_bit_for_bit(name, pair, request):
    bundle, texts = request.getfixturevalue(name), texts_of(48, pair)
    found = Classifier(bundle, device="cpu")(texts)
    wanted = answers_of_the_server(bundle, texts, pair)
    assert [one.scores for one in found] == [{p["label"]: p["score"] for p in row} for row in wanted]
    assert [(one.label, one.score) for one in found] == [(row[0]["label"], row[0]["score"]) for row in wanted]
    assert {one.stage for one in found} == ({"gate", "student"} if name == "gated_bundle" else {"student"})


def test_one_text_a_list_and_an_empty_list(tiny_bundle):
    classifier = Classifier(tiny_bundle, device="cpu")
    one = classifier("good film")
    assert one == classifier(["good film"])[0] == classifier(["bad film", "good film"])[1]
    assert one.label in classifier.labels
    assert list(one.scores.values()) == sorted(one.scores.values(), reverse=True)
    assert sum(one.scores.values()) == pytest.approx(1)
    assert classifier([]) == []
    assert classifier.logits(["good film"]).tolist() == [list(one.logits)]
    assert classifier.logits([]).shape == (0, 2)


def test_more_texts_than_are_answered_at_once(tiny_bundle, monkeypatch):
    monkeypatch.setattr("prunella.classifier.ROWS_AT_ONCE", 7)
    texts = texts_of(40)
    classifier = Classifier(tiny_bundle, device="cpu")
    assert np.array_equal(classifier.logits(texts), [classifier(text).logits for text in texts])


def test_threads_share_it(tiny_bundle):
    classifier, texts = Classifier(tiny_bundle, device="cpu"), texts_of(200)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(classifier, texts)) == classifier(texts)


def test_another_process_can_be_given_it(tiny_bundle):
    classifier = Classifier(tiny_bundle, device="cpu")
    assert pickle.loads(pickle.dumps(classifier))("good film") == classifier("good film")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["good film", " "], "text 1: a text is empty"), ("", "text 0: a text is empty"),
        (["good", ("good", "film")], "text 1: found a pair"), (["good", 3], "item 1 is 3: wanted a text"),
        (["good", ["good", "film"]], "item 1 is .*: wanted a text, or a tuple"),
        (None, "found NoneType, wanted a text, or a list of texts"), (b"good film", "found bytes, wanted"),
        ({"text": "good film"}, "found dict, wanted .*: choose the column of the texts"),
        (DataFrame({"text": ["good film"]}), r"found DataFrame, wanted .* such as table\['text'\]"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_named_by_its_position(tiny_bundle, texts, message):
    with pytest.raises(InputError, match=message):
        Classifier(tiny_bundle, device="cpu")(texts)


def test_the_texts_may_be_any_iterable_but_not_one_string_for_logits(tiny_bundle):
    classifier, texts = Classifier(tiny_bundle, device="cpu"), ["good film", "bad film"]
    expected = classifier(texts)
    for same in (np.array(texts), np.array(texts, dtype=object), Series(texts), iter(texts)):
        assert classifier(same) == expected
    with pytest.raises(InputError, match="found str, wanted a text, or a list of texts"):
        classifier.logits("good film")  # not its letters


def test_long_texts_are_cut_where_it_was_told(tiny_bundle):
    long = "good " * 50 + "bad " * 50
    right, left = (Classifier(tiny_bundle, device="cpu", truncate=end)(long) for end in ("right", "left"))
    assert right.logits != left.logits
    with pytest.raises(InputError, match=r"text 0: a text has .* tokens, the model takes"):
        Classifier(tiny_bundle, device="cpu", truncate="never")(long)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(FolderError):
        Classifier(tmp_path / "nothing")


def test_it_needs_nothing_that_trains(tiny_bundle):
    code = (
        "import os, sys; from prunella import Classifier; print(Classifier(sys.argv[1])('good film').label); "
        "print([m for m in ('torch', 'transformers', 'optimum', 'scipy', 'bentoml') if m in sys.modules]); "
        "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", code, tiny_bundle],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    label, loaded, is_private = done.stdout.splitlines()
    assert is_private == "1"  # ONNX Runtime reports no usage
    assert label in json.loads((tiny_bundle / "task.json").read_text())["labels"]
    assert loaded == "[]"


@pytest.fixture(scope="module")
def gated_bundle(tiny_bundle, tmp_path_factory):
    return add_gate(tiny_bundle, tmp_path_factory.mktemp("gated") / "bundle")


def test_the_gate_answers_what_it_is_sure_of_and_the_student_the_rest_as_without_a_gate(tiny_bundle, gated_bundle):
    texts = texts_of(60)
    student, cascade = Classifier(tiny_bundle, device="cpu"), Classifier(gated_bundle, device="cpu")
    gate, engine = Bundle.open(gated_bundle).gate, Engine.open(Bundle.open(gated_bundle))
    decided = [gate.decide(one.ids) for one in engine.encode([(text,) for text in texts])]
    found = cascade(texts)
    assert [one.stage for one in found] == ["gate" if one.answered else "student" for one in decided]
    assert {"gate", "student"} == {one.stage for one in found}
    for one, answer, alone in zip(found, decided, student(texts), strict=True):
        if one.stage == "student":
            assert one == alone
        else:
            assert one.logits == tuple(answer.logits.tolist())
            assert one.label == cascade.labels[answer.label]
            assert one.score == pytest.approx(answer.confidence, rel=1e-6)


@pytest.mark.parametrize("how", ["threshold above every confidence", "turned off", "cut on the left"])
def test_a_cascade_whose_gate_never_answers_is_the_student_bit_for_bit(tiny_bundle, gated_bundle, tmp_path, how):
    texts, end = texts_of(60), "left" if "left" in how else "right"
    bundle = add_gate(tiny_bundle, tmp_path / "b", thresholds=(NEVER,)) if "threshold" in how else gated_bundle
    cascade = Classifier(bundle, device="cpu", truncate=end, cascade=how != "turned off")
    assert cascade(texts) == Classifier(tiny_bundle, device="cpu", truncate=end)(texts)


def test_logits_are_those_of_the_bundles_model_and_never_of_the_gate(tiny_bundle, tmp_path):
    always = Classifier(add_gate(tiny_bundle, tmp_path / "b", thresholds=(ALWAYS,)), device="cpu")
    texts = texts_of(20)
    assert {one.stage for one in always(texts)} == {"gate"}
    assert np.array_equal(always.logits(texts), Classifier(tiny_bundle, device="cpu").logits(texts))


def test_the_gates_answers_do_not_depend_on_the_other_texts(gated_bundle):
    cascade, texts = Classifier(gated_bundle, device="cpu"), texts_of(30)
    assert [cascade(text) for text in texts] == cascade(texts)
    assert pickle.loads(pickle.dumps(cascade))(texts) == cascade(texts)


def test_with_a_gate_an_invalid_text_is_still_named_by_its_position(gated_bundle):
    with pytest.raises(InputError, match="text 2: a text is empty"):
        Classifier(gated_bundle, device="cpu")(["good film", "bad", " ", "fine"])
