"""Fine-tuning: what the folder holds is what its report says, for every kind of task and every family."""

import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled import MEAN, make_texts
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, root_mean_squared_error
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import TINY_FAMILIES, make_tiny_checkpoint, make_tiny_family, tiny_texts
from transformers import AutoModelForSequenceClassification

from models.checkpoint import load_checkpoint
from models.classifier import TensorBatch
from models.data.texts import Texts
from models.errors import InputError
from models.finetuning.finetune import FinetuneConfig, Splits, finetune
from models.finetuning.losses import LossConfig
from models.finetuning.metrics import choose_thresholds
from models.finetuning.predict import predict
from models.finetuning.seeds import finetune_seeds
from models.store.folder import EVENTS, LOG, PLOT, ModelFolder
from models.task import Task, sigmoid
from models.tokenizer import Tokenizer
from models.train.history import read_log
from models.train.loop import TrainingConfig

TRAINING = TrainingConfig(epochs=10, batch_size=8, learning_rate=2e-3, precision="fp32")
CONFIG = FinetuneConfig(max_tokens=32, training=TRAINING)
TASKS = {"single": ("single", False), "multi": ("multi", False), "regression": ("regression", False),
         "pairs": ("single", True)}  # fmt: skip


def change(**settings) -> FinetuneConfig:
    return CONFIG.model_copy(update={"training": TRAINING.model_copy(update=settings)})


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    make_tiny_checkpoint(folder)
    return str(folder)


def splits_of(name: str = "single") -> Splits:
    kind, pair = TASKS[name]
    return Splits(make_texts(kind, seed=1, pair=pair), make_texts(kind, 48, seed=2, pair=pair))


@pytest.fixture(scope="module")
def made(tmp_path_factory, encoder) -> dict[str, tuple[Splits, Path]]:
    """For each task: the rows, and the folder that they made."""
    store = tmp_path_factory.mktemp("store")
    return {name: (splits_of(name), finetune(encoder, splits_of(name), CONFIG, store).folder.path) for name in TASKS}


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def logits_of(folder: Path, texts: Texts) -> np.ndarray:
    tokenizer = Tokenizer.open(folder, CONFIG.max_tokens)
    return predict(load_checkpoint(folder), tokenizer.encode(texts.rows), tokenizer)


def reference(task: Task, texts: Texts, logits: np.ndarray) -> dict[str, float]:
    """The kind's metrics by scikit-learn and scipy, from the labels as they were written."""
    labels = texts.require_labels()
    if task.kind == "regression":
        answers = logits[:, 0].astype(np.float64)
        return {
            "pearson": pearsonr(labels, answers).statistic, "spearman": spearmanr(labels, answers).statistic,
            "rmse": root_mean_squared_error(labels, answers),
        }  # fmt: skip
    if task.kind == "multi":
        truth = np.array([[name in label for name in task.labels] for label in labels])
        given = 1 / (1 + np.exp(-logits.astype(np.float64))) >= np.array(task.thresholds) - 1e-6
        told = {f"{mean}_f1": f1_score(truth, given, average=mean) for mean in ("micro", "macro")}
        return told | {"subset_accuracy": accuracy_score(truth, given)}
    given = [task.labels[place] for place in logits.argmax(1)]
    told = {f"{mean}_f1": f1_score(labels, given, average=mean) for mean in ("micro", "macro")}
    return told | {"accuracy": accuracy_score(labels, given), "matthews": matthews_corrcoef(labels, given)}


@pytest.mark.parametrize("name", TASKS)
def test_the_report_is_what_the_folder_answers(made, name):
    splits, folder = made[name]
    task, report = Task.read(folder / "task.json"), report_of(folder)
    assert (task.kind, task.pair) == TASKS[name]
    wanted = reference(task, splits.validation, logits_of(folder, splits.validation))
    assert {metric: report[metric] for metric in wanted} == pytest.approx(wanted, abs=1e-6)
    assert report["details"]["validation"].items() >= {"rows": 48, "kind": task.kind}.items()
    assert (report["rows"], report["steps"], report["best_step"]) == (48, 120, 120)
    learned = {"single": "matthews", "pairs": "matthews", "multi": "macro_f1", "regression": "spearman"}[name]
    assert report[learned] > 0.4


@pytest.mark.parametrize("name", TASKS)
def test_transformers_loads_the_folder_and_answers_alike(made, name):
    splits, folder = made[name]
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    batch = TensorBatch(Tokenizer.open(folder, CONFIG.max_tokens).batch(splits.validation.rows))
    with torch.no_grad():
        found = theirs(input_ids=batch.ids, attention_mask=batch.mask, token_type_ids=batch.types).logits
    assert np.allclose(found, logits_of(folder, splits.validation), atol=1e-4)
    assert tuple(theirs.config.id2label.values()) == Task.read(folder / "task.json").labels
    problems = {"multi": "multi_label_classification", "regression": "regression"}
    assert theirs.config.problem_type == problems.get(name, "single_label_classification")


def test_thresholds_are_the_best_on_the_validation_rows(made):
    splits, folder = made["multi"]
    task, logits = Task.read(folder / "task.json"), logits_of(folder, splits.validation)
    targets = splits.validation.targets(task)
    assert task.thresholds == pytest.approx(choose_thresholds(targets, sigmoid(logits)))
    report = report_of(folder)
    told = report["details"]["validation"]["labels"]
    assert [(label["label"], label["threshold"]) for label in told] == list(
        zip(task.labels, task.thresholds, strict=True)
    )
    even = f1_score(targets, sigmoid(logits) >= 0.5, average="macro")
    assert report["macro_f1"] > even, "with thresholds of 0.5 the report would say the same"


def test_a_regression_begins_at_the_mean(encoder, tmp_path):
    splits = splits_of("regression")
    still = change(epochs=1, steps=1, learning_rate=1e-12)
    folder = finetune(encoder, splits, still, tmp_path).folder.path
    mean = float(np.mean(splits.train.require_labels()))
    assert mean == pytest.approx(MEAN, abs=1)
    assert load_checkpoint(folder).head.out.bias.tolist() == pytest.approx([mean], rel=1e-6)


def test_the_step_with_the_least_error_is_kept(encoder, tmp_path):
    splits = splits_of("regression")
    folder = finetune(encoder, splits, change(metric="rmse", evaluate_every=2, learning_rate=1e-2), tmp_path).folder
    report = report_of(folder.path)
    found = {e["step"]: e["metrics"]["rmse"] for e in report["details"]["history"]["evaluations"]}
    assert len(set(found.values())) > 10
    assert report["best_step"] == min(found, key=found.__getitem__)
    assert report["rmse"] == pytest.approx(min(found.values()), rel=1e-5)
    wanted = reference(
        Task.read(folder.path / "task.json"), splits.validation, logits_of(folder.path, splits.validation)
    )
    assert report["rmse"] == pytest.approx(wanted["rmse"], rel=1e-5)


def test_another_test_set_gives_scores_and_no_new_training(encoder, tmp_path):
    splits = splits_of()
    first = finetune(encoder, splits, change(steps=4), tmp_path)
    assert not first.reused
    weights = first.folder.path / "model.safetensors"
    written, validation = weights.stat().st_mtime_ns, report_of(first.folder.path)
    assert not any(name.startswith("test_") for name in validation)
    for seed, rows in ((5, 40), (6, 30)):
        test = make_texts(count=rows, seed=seed)
        made = finetune(encoder, Splits(splits.train, splits.validation, test), change(steps=4), tmp_path)
        report = report_of(made.folder.path)
        assert (made.reused, made.folder.path, weights.stat().st_mtime_ns) == (True, first.folder.path, written)
        wanted = reference(Task.read(made.folder.path / "task.json"), test, logits_of(made.folder.path, test))
        assert {name: report[f"test_{name}"] for name in wanted} == pytest.approx(wanted)
        assert (report["test_rows"], report["details"]["test"]["rows"]) == (rows, rows)
        assert {name: report[name] for name in validation if name != "details"} == {
            name: value for name, value in validation.items() if name != "details"
        }
        assert ModelFolder.open(made.folder.path).id == first.folder.id


def test_other_weights_or_rows_are_another_training(encoder, tmp_path):
    splits, short = splits_of(), change(steps=1)
    make_tiny_checkpoint(tmp_path / "other", seed=1)
    same = finetune(encoder, splits, short, tmp_path)
    relabelled = Texts(splits.train.rows, splits.train.labels[::-1], "made up")
    changed = [
        finetune(str(tmp_path / "other"), splits, short, tmp_path),
        finetune(encoder, Splits(relabelled, splits.validation), short, tmp_path),
        finetune(encoder, Splits(splits.train, splits.train), short, tmp_path),
    ]
    assert len({made.folder.path for made in (same, *changed)}) == 4
    elsewhere = shutil.copytree(encoder, tmp_path / "copy")
    assert finetune(str(elsewhere), splits, short, tmp_path).reused  # what it is counts, not where it is
    tokenizer = elsewhere / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    assert not finetune(str(elsewhere), splits, short, tmp_path).reused


def test_a_classifier_goes_on_only_where_its_outputs_mean_the_same(made, tmp_path, capsys):
    splits, folder = made["single"]
    still = change(epochs=1, steps=1, learning_rate=1e-12)
    names = {"mixed": "even"}  # sorts before the others too
    renamed = [
        Texts(texts.rows, [names.get(label, label) for label in texts.require_labels()], "made up")
        for texts in (splits.train, splits.validation)
    ]
    output = load_checkpoint(folder).head.out.weight
    again = load_checkpoint(finetune(str(folder), splits, still, tmp_path).folder.path)
    assert torch.allclose(again.head.out.weight, output, atol=1e-6)
    assert "a new output layer" not in capsys.readouterr().err
    other = load_checkpoint(finetune(str(folder), Splits(*renamed), still, tmp_path).folder.path)
    assert not torch.allclose(other.head.out.weight, output, atol=1e-2)
    assert torch.allclose(other.head.dense.weight, again.head.dense.weight, atol=1e-6)
    assert "answers with mixed, negative, positive" in capsys.readouterr().err


def test_a_regression_that_goes_on_keeps_its_bias(made, tmp_path):
    splits, folder = made["regression"]
    still = change(epochs=1, steps=1, learning_rate=1e-12)
    again = load_checkpoint(finetune(str(folder), splits, still, tmp_path).folder.path)
    assert torch.allclose(again.head.out.bias, load_checkpoint(folder).head.out.bias, atol=1e-6)


@pytest.mark.parametrize(
    ("test", "told"),
    [
        (make_texts(pair=True), "has pairs"),
        (Texts([("so",)], ["none"], "other"), "has labels that made up has not: none"),
        (Texts([("so",)], None, "bare"), "bare has no label column"),
    ],
)
def test_test_rows_that_cannot_be_scored_are_refused_before_training(encoder, tmp_path, test, told):
    splits = splits_of()
    with pytest.raises(InputError, match=told):
        finetune(encoder, Splits(splits.train, splits.validation, test), CONFIG, tmp_path)
    assert not list(tmp_path.iterdir())


def test_settings_that_would_do_nothing_are_refused(encoder, tmp_path):
    with pytest.raises(InputError, match=r"--patience is 2 and no metric is watched: .* --metric accuracy"):
        finetune(encoder, splits_of(), change(patience=2), tmp_path)
    for loss in (LossConfig(class_weights="balanced"), LossConfig(label_smoothing=0.1)):
        with pytest.raises(InputError, match="a regression has neither class weights nor label smoothing"):
            finetune(encoder, splits_of("regression"), CONFIG.model_copy(update={"loss": loss}), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["single", "regression"])
def test_mean_and_deviation_are_those_of_the_single_runs(encoder, tmp_path, name):
    splits = splits_of(name)
    splits = Splits(splits.train, splits.validation, make_texts(TASKS[name][0], 40, seed=9))
    made, told = finetune_seeds(encoder, splits, change(steps=40, seed=3), tmp_path, 3)
    assert told["seeds"] == [3, 4, 5]
    several = {"one_of_several": True}  # their scores are of the half that does not choose
    configs = [change(steps=40, seed=seed).model_copy(update=several) for seed in (3, 4, 5)]
    single = [finetune(encoder, splits, one, tmp_path) for one in configs]
    assert all(run.reused for run in single)
    assert told["folders"] == [str(run.folder.path) for run in single]
    reports = [report_of(run.folder.path) for run in single]
    metrics = {"single": ("accuracy", "macro_f1", "micro_f1", "matthews"),
               "regression": ("spearman", "pearson", "rmse")}[name]  # fmt: skip
    assert set(told["spread"]) == {*metrics, *(f"test_{metric}" for metric in metrics)}
    for metric, spread in told["spread"].items():
        values = [report[metric] for report in reports]
        assert len(set(values)) > 1, metric
        assert spread["values"] == values
        assert (spread["mean"], spread["deviation"]) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    best = int(np.argmax([report[metrics[0]] for report in reports]))
    assert told["chosen_seed"] == 3 + best
    assert made.folder.path == single[best].folder.path


def moved(encoder: str, folder: Path, name: str) -> float:
    """How far a weight is from where training began, at most."""
    start, end = load_checkpoint(Path(encoder), labels=3), load_checkpoint(folder)
    return float((end.state_dict()[name] - start.state_dict()[name]).abs().max())


def test_layer_decay_and_frozen_embeddings_reach_the_training(encoder, tmp_path):
    levels = ["head.out.weight", "encoder.layers.1.ffn.rise.weight", "encoder.layers.0.ffn.rise.weight"]
    table = "encoder.embeddings.tokens.weight"
    even = finetune(encoder, splits_of(), change(steps=5), tmp_path).folder.path
    distances = [moved(encoder, even, name) for name in levels]
    assert max(distances) < 3 * min(distances)
    assert moved(encoder, even, table) == 0.0
    steep = change(steps=5, layer_decay=0.01, freeze_embeddings=False)
    folder = finetune(encoder, splits_of(), steep, tmp_path).folder.path
    distances = [moved(encoder, folder, name) for name in levels]
    assert distances[0] > 30 * distances[1] > 900 * distances[2] > 0
    free = finetune(encoder, splits_of(), change(steps=5, freeze_embeddings=False), tmp_path).folder.path
    assert moved(encoder, free, table) > 1e-3


def test_the_course_is_in_the_folder_and_outside_its_manifest(made):
    _, folder = made["single"]
    lines = read_log(folder)
    accuracies = [line["accuracy"] for line in lines if "accuracy" in line]
    history = report_of(folder)["details"]["history"]
    assert accuracies == [found["metrics"]["accuracy"] for found in history["evaluations"]]
    assert [line["step"] for line in lines if "loss" in line] == [20, 40, 60, 80, 100, 120]
    events = EventAccumulator(str(folder / EVENTS)).Reload()
    assert [(e.step, pytest.approx(e.value)) for e in events.Scalars("loss")] == [
        (line["step"], line["loss"]) for line in lines if "loss" in line
    ]
    assert [pytest.approx(e.value) for e in events.Scalars("accuracy")] == accuracies
    assert ElementTree.parse(folder / PLOT).getroot().tag.endswith("svg")
    listed = ModelFolder.open(folder).manifest.files
    assert {"model.safetensors", "task.json", "tokenizer.json", "config.json"} <= listed.keys()
    assert not {name for name in listed if name.split("/")[0] in (LOG, PLOT, EVENTS, "report.json")}
    with (folder / LOG).open("a", encoding="utf-8") as file:
        file.write('{"step": 49}\n')
    assert ModelFolder.open(folder).path == folder  # a log that grows leaves the model what it is


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_every_family_is_fine_tuned(tmp_path, family):
    make_tiny_family(tmp_path / "encoder", family)
    texts = tiny_texts(32)
    made = finetune(str(tmp_path / "encoder"), Splits(texts, texts), change(steps=3), tmp_path / "store")
    folder = made.folder.path
    logits = logits_of(folder, texts)
    task = Task.read(folder / "task.json")
    report = report_of(folder)
    assert report["steps"] == 3
    assert {name: report[name] for name in ("accuracy", "matthews")} == pytest.approx(
        {name: reference(task, texts, logits)[name] for name in ("accuracy", "matthews")}
    )
    before, after = load_checkpoint(tmp_path / "encoder", labels=2), load_checkpoint(folder)
    for layer in range(len(after.architecture.layers)):
        name = f"encoder.layers.{layer}.ffn.rise.weight"
        assert not torch.equal(before.state_dict()[name], after.state_dict()[name]), name
    theirs = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    batch = TensorBatch(Tokenizer.open(folder, CONFIG.max_tokens).batch(texts.rows))
    with torch.no_grad():
        assert np.allclose(theirs(batch.ids, batch.mask).logits, logits, atol=1e-4)
