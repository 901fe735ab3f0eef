"""Long texts in windows: which, how their scores are combined, and that every way to a bundle says the same."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
from bundles import sign
from starlette.testclient import TestClient
from tiny import tiny_texts

from bench.measure.accuracy.evaluate import evaluate_on
from models.data.texts import Texts
from models.errors import InputError
from models.task import Task
from models.tokenizer import Encoded
from prunella.bulk.scorer import Scorer
from prunella.classifier import Classifier
from service.inference.inference_service import InferenceService
from service.model.bundle import Bundle
from service.model.engine import Engine
from service.model.session import RuntimeSettings
from service.model.windows import OVERLAP, TextWindows, combine_logits
from service.settings import Settings
from service.web.app import App

pytest_plugins = ["serving"]  # the fixtures tiny_bundle and pair_bundle
SINGLE, MULTI = Task(labels=("a", "b", "c"), max_tokens=20), Task(kind="multi", labels=("a", "b"), max_tokens=20)
NUMBER = Task(kind="regression", labels=("value",), max_tokens=20)
SHORT, LONG = "good film", " ".join(["awful dull plot", "good warm music"] * 12)  # 4 and 74 tokens; the limit is 32


@pytest.mark.parametrize("length", [3, 20, 21, 33, 34, 62, 74])
def test_windows_cover_a_text_evenly_and_overlap_by_a_quarter(length):
    windows = TextWindows(SINGLE, (1, 1), 5, "mean")
    assert windows.max_tokens == 20 + 4 * 13
    length = min(length, windows.max_tokens)
    ids = [1, *range(100, 100 + length - 2), 2]
    parts = windows.cut(Encoded(ids, [0] * length))
    assert len(parts) == 1 + max(0, -(-(length - 20) // 13))
    inner = [part.ids[1:-1] for part in parts]
    assert all(part.ids[0] == 1 and part.ids[-1] == 2 and len(part.ids) <= 20 for part in parts)
    assert len({len(part.ids) for part in parts}) == 1
    assert (inner[0][0], inner[-1][-1]) == (ids[1], ids[-2])
    for one, two in pairwise(inner):
        assert two[0] - one[0] <= (1 - OVERLAP) * len(one)  # so nothing is left out
    assert all(len(part.types) == len(part.ids) for part in parts)


@pytest.mark.parametrize("task", [SINGLE, MULTI, NUMBER, NUMBER.model_copy(update={"activation": "sigmoid"})])
@pytest.mark.parametrize("combine", ["mean", "max"])
def test_the_scores_of_the_answer_are_those_of_the_windows_combined(task, combine):
    logits = np.random.default_rng(0).normal(0, 3, (4, len(task.labels)))
    found = task.scores(combine_logits(logits, task, combine)[None])[0]
    scores = task.scores(logits)
    wanted = scores.mean(0) if combine == "mean" else scores.max(0)
    np.testing.assert_allclose(found, wanted / wanted.sum() if task.kind == "single" else wanted, rtol=1e-6)


@pytest.mark.parametrize("combine", ["mean", "max"])
def test_certain_windows_give_finite_logits(combine):
    for task in (SINGLE, MULTI, NUMBER):
        logits = np.full((3, len(task.labels)), 900.0) * [[1], [-1], [1]]
        assert np.isfinite(combine_logits(logits, task, combine)).all()


def test_the_estimate_of_windows_is_one_for_short_texts_and_never_above_the_most():
    windows = TextWindows(SINGLE, (1, 1), 5, "mean")
    assert [windows.expected(chars) for chars in (0, 40, 72, 80, 10**9)] == [1, 1, 1, 2, 5]


def opened(folder, **settings):
    return Engine.open(Bundle.open(folder), RuntimeSettings(device="cpu", **settings))


@pytest.fixture(scope="module")
def engine(tiny_bundle):
    return opened(tiny_bundle, windows=4, windows_combine="max")


@pytest.fixture
def client(engine):
    with TestClient(App(InferenceService(engine, Settings()))) as running:
        yield running


def scores_of(row):
    return {one["label"]: one["score"] for one in row}


def test_a_long_text_is_answered_by_its_windows_alone_and_in_a_batch(client, tiny_bundle, engine):
    plain = opened(tiny_bundle)
    (whole,) = plain.tokenize([(LONG,)], "never")
    parts = engine.windows.cut(whole)
    assert len(parts) == 3
    scores = plain.bundle.task.scores(np.concatenate([plain.infer([part]) for part in parts])).max(0)
    alone = client.post("/v1/classify", json={"text": LONG}).json()
    together = client.post("/v1/classify", json={"texts": [SHORT, LONG, SHORT, LONG]}).json()
    assert (alone["windows"], together["windows"]) == (3, [1, 3, 1, 3])
    for row in (alone["predictions"], together["predictions"][1], together["predictions"][3]):
        for label, score in zip(plain.bundle.task.labels, scores / scores.sum(), strict=True):
            assert scores_of(row)[label] == pytest.approx(score, abs=1e-6)
    short = client.post("/v1/classify", json={"text": SHORT, "raw_scores": True}).json()
    assert short["windows"] == 1
    expected = dict(zip(plain.bundle.task.labels, plain.logits([(SHORT,)])[0].tolist(), strict=True))
    assert scores_of(short["predictions"]) == pytest.approx(expected, abs=1e-6)


def test_other_protocols_say_the_number_in_a_header(client):
    for path, body in (("/predict", {"inputs": LONG}), ("/", {"inputs": LONG}), ("/v1/classify", {"input": LONG})):
        answer = client.post(path, json=body)
        assert (answer.status_code, answer.headers["x-windows"]) == (200, "3")
    assert client.post("/predict", json={"inputs": SHORT}).headers["x-windows"] == "1"


def test_a_text_that_needs_more_windows_is_cut_or_refused(client):
    longer = LONG + " " + " ".join(["awful"] * 200)
    answer = client.post("/v1/classify", json={"text": longer}).json()
    assert answer["windows"] == 4
    left = client.post("/v1/classify", json={"text": longer, "truncation_direction": "left"}).json()
    assert left["windows"] == 4
    assert scores_of(left["predictions"]) != scores_of(answer["predictions"])
    refused = client.post("/v1/classify", json={"text": longer, "truncate": False})
    assert (refused.status_code, "the model takes 98; allow truncation" in refused.text) == (422, True)
    assert client.post("/v1/classify", json={"text": LONG, "truncate": False}).json()["windows"] == 3


def test_token_ids_and_own_limits_of_a_request_have_no_windows(client):
    short = client.post("/classify", json={"input": LONG, "truncate_prompt_tokens": 10})
    assert (short.status_code, "x-windows" in short.headers) == (200, False)


def test_models_of_pairs_have_no_windows(pair_bundle):
    with pytest.raises(InputError, match="this one takes pairs"):
        opened(pair_bundle, windows=2)
    opened(pair_bundle, windows=1)


def test_every_way_to_a_bundle_gives_the_same_answer(client, tiny_bundle):
    wanted = scores_of(client.post("/v1/classify", json={"text": LONG}).json()["predictions"])
    classify = Classifier(tiny_bundle, device="cpu", windows=4, windows_combine="max")
    short, long = classify([SHORT, LONG])
    assert (short.windows, long.windows) == (1, 3)
    assert long.scores == pytest.approx(wanted, abs=1e-6)
    one, two = Scorer(tiny_bundle, windows=4, windows_combine="max")([SHORT, LONG])
    assert (one.windows, two.windows) == (1, 3)
    assert scores_of(two.scores) == pytest.approx(wanted, abs=1e-6)


def test_a_bundle_says_its_windows_and_a_setting_wins(tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    task = Task.read(tmp_path / "bundle" / "task.json")
    task.model_copy(update={"windows": 3}).write(tmp_path / "bundle" / "task.json")
    sign(tmp_path / "bundle")
    own = opened(tmp_path / "bundle")
    assert (own.windows.most, own.windows.combine) == (3, "mean")
    assert opened(tmp_path / "bundle", windows=1).windows is None
    assert opened(tmp_path / "bundle", windows=5, windows_combine="max").windows.most == 5
    assert "windows" not in json.loads((tiny_bundle / "task.json").read_text())  # ids of other folders stay
    rows = Texts([(LONG,), *tiny_texts(4).rows], ["positive", "negative", "positive", "negative", "positive"], "rows")
    said = [
        evaluate_on(path, rows, windows=n).windows for path, n in ((own.bundle.folder.path, None), (tiny_bundle, 4))
    ]
    assert said == [3, 4]
    assert evaluate_on(own.bundle.folder.path, rows, windows=1).windows is None


def test_windows_of_pairs_are_no_valid_task():
    with pytest.raises(ValueError, match="windows are for single texts"):
        Task(labels=("a", "b"), pair=True, windows=2)
