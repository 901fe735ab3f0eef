"""A model that answers with a number: cut, quantized, measured and served; what it loses is a correlation."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from compressing import time_by_bytes
from labelled import compress_learned, make_learned, make_texts
from starlette.testclient import TestClient
from tiny import make_tiny_checkpoint
from verbs import run

from bench.engines.available import Inputs
from bench.measure.accuracy.evaluate import bundle_logits, evaluate
from bench.report.bench_config import BenchConfig
from bench.report.build import run_bench
from compress.inputs.inputs import CompressionInputs
from compress.inputs.source import check_inputs, open_source
from compress.pruning.fisher import fisher
from models import task as task_file
from models.checkpoint import load_checkpoint, read_architecture
from models.classifier import TensorBatch
from models.data.texts import Texts
from models.errors import FolderError, InputError
from models.finetuning.pearson import pearson
from models.store.folder import ModelFolder
from models.task import Task
from models.tokenizer import Tokenizer
from service.inference.inference_service import InferenceService
from service.model.bundle import Bundle
from service.model.engine import Engine
from service.settings import Settings
from service.web.app import App

TRAIN, DEV = make_texts("regression", 192, 1), make_texts("regression", 96, 2)
SAME = 1e-4


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, ModelFolder]:
    """A model that learned, and its texts as files."""
    return make_learned(tmp_path_factory.mktemp("regression"), TRAIN, DEV)


@pytest.fixture(scope="module")
def bundle(made) -> Bundle:
    folder, classifier = made
    with pytest.MonkeyPatch.context() as patch:
        time_by_bytes(patch)
        code, told, err = run(_Nothing(), patch, *compress_learned(folder, classifier))
    del told
    assert code == 0, err
    return Bundle.open(next((folder / "store").glob("bundle-*")))


class _Nothing:
    """Stands for capsys where a fixture lives longer than a test."""

    @staticmethod
    def readouterr():
        return type("Told", (), {"out": "", "err": ""})


def test_the_bundle_says_what_was_lost_of_which_correlation(made, bundle):
    folder, classifier = made
    told = bundle.report()
    assert (told["loss_is"], told["rows"]) == ("pearson", len(DEV))
    assert "accuracy" not in told
    truth = np.array(DEV.labels, dtype=np.float32)
    ours = bundle_logits(bundle.folder.path, DEV.rows)[:, 0]
    assert told["pearson"] == pytest.approx(pearson(truth, ours))
    assert told["reference_pearson"] > 0.5  # it did learn
    assert told["loss_points"] == pytest.approx(100 * (told["reference_pearson"] - told["pearson"]), rel=1e-3)
    assert told["loss_interval"][0] <= told["loss_points"] <= told["loss_interval"][1]
    family = next((folder / "store").glob("family-*"))
    assert "| Pearson's correlation |" in (family / "family.md").read_text()
    stages = [step.stage for step in bundle.folder.manifest.lineage]
    assert stages == ["finetune", "prune", "heal", "bundle"]
    assert bundle.architecture != read_architecture(classifier.path)


def test_a_report_of_a_regression(made, bundle, tmp_path):
    _, classifier = made
    config = BenchConfig(against=("ort_fp32", "tfidf"), texts=8, rounds=3, openings=2, batches=(1,))
    report = run_bench(Inputs(bundle, classifier, DEV, TRAIN), config, tmp_path, tmp_path / "report")
    assert {e.name: e.status for e in report.engines} == dict.fromkeys(("ours", *config.against), "ok")
    rows = {e.name: e for e in report.engines}
    assert report.metric == "pearson"
    assert rows["ort_fp32"].score.pearson == pytest.approx(evaluate(classifier.path, DEV).pearson, abs=SAME)
    assert rows["ours"].difference.loss_points == pytest.approx(
        100 * (rows["ort_fp32"].score.pearson - rows["ours"].score.pearson)
    )
    assert rows["ours"].quality is None
    assert rows["tfidf"].score.pearson > 0.5
    assert "ridge" in rows["tfidf"].description
    page, table = ((tmp_path / "report" / f"report.{end}").read_text() for end in ("html", "md"))
    assert "points of Pearson&#39;s correlation" in page
    assert "<th>Pearson</th><th>Spearman</th>" in page
    assert "| engine | Pearson | Spearman |" in table
    assert "points of Pearson's correlation (95 % interval" in " ".join(report.verdicts)
    told = bundle.report()
    assert {"pearson", "spearman", "rmse", "reference_pearson", "loss_is"} <= told.keys()


def test_quantize_and_evaluate_judge_by_the_correlation(made, capsys, monkeypatch):
    folder, classifier = made
    code, told, err = run(
        capsys, monkeypatch, "quantize", classifier.path, "--calibration", folder / "train.csv", "--data",
        folder / "dev.csv", "--recipe", "static", "--max-loss", 5, "--store", folder / "store",
    )  # fmt: skip
    assert code == 0, err
    assert told["loss_is"] == "pearson"
    assert told["loss_points"] == pytest.approx(100 * (told["reference_pearson"] - told["pearson"]))
    assert told["loss_interval"][0] <= told["loss_points"] <= told["loss_interval"][1]
    code, found, err = run(capsys, monkeypatch, "evaluate", told["folder"], "--data", folder / "dev.csv")
    assert code == 0, err
    assert found["pearson"] == pytest.approx(told["pearson"], abs=SAME)
    assert {"spearman", "rmse", "pearson_interval"} <= found.keys()
    code, torch_found, _ = run(capsys, monkeypatch, "evaluate", classifier.path, "--data", folder / "dev.csv")
    assert torch_found["pearson"] == pytest.approx(told["reference_pearson"], abs=SAME)


def test_large_numbers_are_compared_in_their_own_unit(made, tmp_path, capsys, monkeypatch):
    """Prices in the ten thousands: 1e-4 is below what fp32 can tell apart there."""
    folder, classifier = made
    shutil.copytree(classifier.path, tmp_path / "prices")
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "prices" / "model.safetensors")
    for end in ("weight", "bias"):
        weights[f"classifier.{end}"] *= 10_000
    save_file(weights, tmp_path / "prices" / "model.safetensors")
    (tmp_path / "prices" / "manifest.json").unlink()
    code, told, err = run(
        capsys, monkeypatch, "quantize", tmp_path / "prices", "--calibration", folder / "train.csv",
        "--recipe", "static", "--max-loss", 5, "--store", tmp_path / "store",
    )  # fmt: skip
    assert code == 0, err
    assert told["agreement"]["loss_is"] == "expected_pearson"
    assert told["agreement"]["max_difference"] > 2.0
    Engine.open(Bundle.open(Path(told["folder"]))).self_check()


def test_every_dialect_answers_the_number(bundle):
    engine = Engine.open(bundle)
    text = DEV.rows[0][0]
    number = float(engine.logits([(text,)])[0, 0])
    assert abs(number) > 2  # no probability
    with TestClient(App(InferenceService(engine, Settings()))) as client:
        wanted = [{"label": "value", "score": pytest.approx(number, rel=1e-6)}]
        assert client.post("/v1/classify", json={"text": text}).json()["predictions"] == wanted
        assert client.post("/predict", json={"inputs": text}).json() == wanted
        assert client.post("/", json={"inputs": text}).json() == [wanted]
        asked = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]}
        told = client.post("/v2/models/prunella/infer", json=asked).json()
        scores = next(output for output in told["outputs"] if output["name"] == "scores")
        assert (scores["shape"], scores["data"]) == ([1, 1], [pytest.approx(number, rel=1e-6)])
        info = client.get("/info").json()
    assert info["task"]["kind"] == "regression"
    assert info["measured"]["loss_is"] == "pearson"
    assert info["measured"]["pearson"] == bundle.report()["pearson"]


def test_a_teacher_whose_correlation_may_be_chance_is_refused(made, tmp_path, capsys):
    _, classifier = made
    assert check_inputs(CompressionInputs(classifier, TRAIN, DEV)) > 0.5
    mixed = Texts(DEV.rows, list(np.random.default_rng(0).permutation(DEV.labels)), "mixed", "regression")
    with pytest.raises(InputError, match=r"a correlation of .* which may be chance, on the 96 rows of mixed"):
        check_inputs(CompressionInputs(classifier, TRAIN, mixed))
    assert abs(check_inputs(CompressionInputs(classifier, TRAIN, mixed), weak_teacher=True)) < 0.3
    assert "WARNING" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "problem", "kind"),
    [(1, None, "regression"), (1, "multi_label_classification", "multi"), (3, "multi_label_classification", "multi"),
     (3, None, "single"), (3, "regression", None)],
)  # fmt: skip
def test_the_kind_of_a_foreign_checkpoint(tmp_path, labels, problem, kind):
    make_tiny_checkpoint(tmp_path / "source", labels=labels)
    path = tmp_path / "source" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"problem_type": problem}))
    if kind is None:
        with pytest.raises(FolderError, match="answers with 3 numbers"):
            open_source(tmp_path / "source", tmp_path)
    else:
        assert Task.read(open_source(tmp_path / "source", tmp_path).path / task_file.FILE).kind == kind


def test_fisher_of_a_regression_is_the_mean_square_of_its_gradient(made):
    _, classifier = made
    model, tokenizer = load_checkpoint(classifier.path), Tokenizer.open(classifier.path, 32)
    rows = DEV.rows[:6]
    found = fisher(model, [TensorBatch(tokenizer.batch(rows))], "regression")
    step, wanted = 1e-3, []
    for row in rows:
        batch = TensorBatch(tokenizer.batch([row]))
        wanted.append([_slope(model, batch, head, step) for head in range(4)])
    assert found["0.attention"].numpy() == pytest.approx(np.square(wanted).mean(0), rel=0.02)


def _slope(model, batch, head: int, step: float) -> float:
    from compress.pruning.fisher import open_gates

    found = []
    for change in (-step, step):
        gates = open_gates(model, 1)
        gates.heads[0][0, head] += change
        found.append(float(model(batch, gates)[0].detach()))
    return (found[1] - found[0]) / (2 * step)
