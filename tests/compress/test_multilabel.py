"""A model that gives any number of labels: cut, quantized, measured; what it loses is rows with every label right."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from labelled import compress_learned, make_learned, make_texts
from sklearn.metrics import accuracy_score, f1_score
from starlette.testclient import TestClient
from verbs import run

from bench.engines.available import Inputs
from bench.measure.accuracy.difference import compare
from bench.measure.accuracy.evaluate import bundle_logits, evaluate
from bench.measure.accuracy.task_metric import score_of
from bench.report.bench_config import BenchConfig
from bench.report.build import run_bench
from bench.report.compare_reports import compare_reports
from models.store.folder import ModelFolder
from models.task import Task
from service.inference.inference_service import InferenceService
from service.model.bundle import Bundle
from service.model.engine import Engine
from service.model.session import RuntimeSettings
from service.settings import Settings
from service.web.app import App

TRAIN, DEV = make_texts("multi", 192, 1), make_texts("multi", 96, 2)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, ModelFolder]:
    """A model that learned, and its texts as files."""
    return make_learned(tmp_path_factory.mktemp("multi"), TRAIN, DEV)


@pytest.fixture
def compressed(made, capsys, monkeypatch, byte_clock) -> tuple[Bundle, dict]:
    code, told, err = run(capsys, monkeypatch, *compress_learned(*made))
    assert code == 0, err
    stages = ["read", "check", "reference", "trim", "analyse", "teach", "prune", "heal", "bundle", "evaluate"]
    assert list(told["stage_seconds"]) == stages
    assert sum(told["stage_seconds"].values()) <= told["seconds"] + 1  # all 0 where every stage is reused
    return Bundle.open(Path(told["folder"])), told


def test_score_of_labels_is_that_of_scikit_learn():
    draw = np.random.default_rng(0)
    truth, found = (draw.integers(0, 2, (50, 4)) for _ in range(2))
    truth[:, 3] = 0  # a label that does not occur
    told = score_of(Task(kind="multi", labels=tuple("abcd")), truth, found.astype(bool))
    assert told.subset_accuracy == pytest.approx(accuracy_score(truth, found))
    assert told.micro_f1 == pytest.approx(f1_score(truth, found, average="micro"))
    assert told.macro_f1 == pytest.approx(np.mean([f1_score(truth[:, i], found[:, i]) for i in range(3)]))
    one = score_of(Task(kind="multi", labels=("a",)), truth[:, :1], found[:, :1].astype(bool))
    assert one.micro_f1 == one.macro_f1 == pytest.approx(f1_score(truth[:, 0], found[:, 0]))
    lost = compare(truth, truth, found)
    assert (lost.metric, lost.loss_points) == ("subset_accuracy", pytest.approx(100 * (1 - told.subset_accuracy)))


def test_compress_a_report_and_a_second_one(made, compressed, tmp_path):
    _, classifier = made
    bundle, told = compressed
    task = bundle.task
    right = [
        (task.decide(task.scores(bundle_logits(path, DEV.rows))) == DEV.targets(task)).all(axis=1).mean()
        for path in (bundle.folder.path,)
    ]
    assert (told["loss_is"], told["subset_accuracy"]) == ("subset_accuracy", pytest.approx(right[0]))
    config = BenchConfig(against=("ort_fp32", "tfidf"), texts=8, rounds=3, openings=2, batches=(1,))
    reports = [
        run_bench(Inputs(bundle, classifier, DEV, TRAIN), config, tmp_path, tmp_path / name)
        for name in ("first", "second")
    ]
    report = reports[0]
    rows = {e.name: e for e in report.engines}
    assert {e.status for e in report.engines} == {"ok"}
    assert report.metric == "subset_accuracy"
    assert rows["ours"].score.subset_accuracy == pytest.approx(right[0])
    assert rows["ort_fp32"].score == evaluate(classifier.path, DEV)
    assert rows["ort_fp32"].score.micro_f1 > 0.8  # it did learn
    assert rows["tfidf"].score.micro_f1 > 0.8
    assert rows["ours"].difference.loss_points == pytest.approx(
        100 * (rows["ort_fp32"].score.value - rows["ours"].score.value)
    )
    assert rows["ours"].quality is None
    assert np.shape(report.truth) == np.shape(rows["ours"].answers) == (len(DEV), 3)
    page, table = ((tmp_path / "first" / f"report.{end}").read_text() for end in ("html", "md"))
    assert "<th>subset accuracy</th><th>micro F1</th>" in page
    assert "| engine | subset accuracy | micro F1 |" in table
    assert "points of subset accuracy (95 % interval" in " ".join(report.verdicts)
    assert {"subset_accuracy", "micro_f1", "reference_subset_accuracy"} <= bundle.report().keys()
    change = compare_reports(*reports).accuracy_change
    assert (change.metric, change.flips) == ("subset_accuracy", 0)


def test_tfidf_gives_a_label_from_one_half_on(made):
    from bench.engines.tfidf import tfidf_engine
    from bench.measure.engine_spec import EngineSpec

    _, classifier = made
    plain = Task(kind="multi", labels=("bad", "good", "rich"))
    odd = plain.model_copy(update={"thresholds": (0.9, 0.2, 0.6)})
    found = []
    for task in (plain, odd):
        engine = tfidf_engine(EngineSpec("tfidf", classifier.path, task, train=TRAIN))
        found.append(task.decide(task.scores(engine.answer(engine.prepare(DEV.rows, None)))))
    assert np.array_equal(*found)


def test_quantize_and_evaluate(made, capsys, monkeypatch):
    folder, classifier = made
    code, told, err = run(
        capsys, monkeypatch, "quantize", classifier.path, "--calibration", folder / "train.csv", "--data",
        folder / "dev.csv", "--recipe", "static", "--max-loss", 5, "--store", folder / "store",
    )  # fmt: skip
    assert code == 0, err
    code, found, err = run(capsys, monkeypatch, "evaluate", told["folder"], "--data", folder / "dev.csv")
    assert code == 0, err
    assert {"subset_accuracy", "micro_f1", "macro_f1"} <= found.keys()


def test_what_is_served_is_the_decision_that_was_measured(compressed):
    """Thresholds far from one half; every dialect's scores stay as they are."""
    bundle, _ = compressed
    rows = DEV.rows[:40]
    scores = bundle.task.scores(bundle_logits(bundle.folder.path, rows))
    tuned = tuple(float(np.quantile(column, q)) for column, q in zip(scores.T, (0.2, 0.5, 0.9), strict=True))
    task = bundle.task.model_copy(update={"thresholds": tuned})
    engine = Engine.open(replace(bundle, task=task), RuntimeSettings(device="cpu"))
    given = task.decide(task.scores(np.concatenate([engine.logits([row]) for row in rows])))
    wanted = [[label for label, chosen in zip(task.labels, row, strict=True) if chosen] for row in given]
    assert {len(one) for one in wanted} >= {0, 1, 2}
    texts = [row[0] for row in rows]
    with TestClient(App(InferenceService(engine, Settings(device="cpu", max_batch=64)))) as client:
        for options in ({}, {"top_k": 1}, {"threshold": 0.99}, {"raw_scores": True}):
            answer = client.post("/v1/classify", json={"texts": texts, **options}).json()
            assert answer["labels"] == wanted
        alone = client.post("/v1/classify", json={"text": texts[0]}).json()
        assert alone["labels"] == wanted[0]
        mixed = client.post("/v1/classify", json={"texts": [texts[0], "", texts[1]]}).json()
        assert mixed["labels"] == [wanted[0], None, wanted[1]]
        tensor = {"name": "text", "shape": [40], "datatype": "BYTES", "data": texts}
        oip = client.post("/v2/models/prunella/infer", json={"inputs": [tensor]}).json()["outputs"]
        assert [one["name"] for one in oip] == ["scores", "label", "decisions"]
        assert np.array_equal(np.reshape(oip[2]["data"], (40, 3)), given)
        assert (oip[2]["datatype"], oip[2]["shape"]) == ("BOOL", [40, 3])
        asked = {"inputs": [tensor], "outputs": [{"name": "decisions"}, {"name": "logits"}]}
        only = client.post("/v2/models/prunella/infer", json=asked).json()["outputs"]
        assert [(one["name"], one["data"] == oip[2]["data"]) for one in only] == [
            ("decisions", True),
            ("logits", False),
        ]
        listed = client.get("/v2/models/prunella").json()["outputs"]
        assert {one["name"]: one["datatype"] for one in listed} == {
            "scores": "FP32", "logits": "FP32", "label": "BYTES", "decisions": "BOOL",
        }  # fmt: skip
        assert client.get("/info").json()["thresholds"] == dict(zip(task.labels, tuned, strict=True))
    with TestClient(App(InferenceService(Engine.open(bundle), Settings(device="cpu")))) as client:
        half = client.get("/info").json()["thresholds"]
        assert half == dict(zip(task.labels, bundle.task.thresholds or (0.5,) * 3, strict=True))
