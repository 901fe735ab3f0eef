"""Healing from better teachers than the model, and small encoders that learn a large model's answers."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from compressing import time_by_bytes
from labelled import compress_learned, make_learned, make_texts, write_csv
from tiny import make_tiny_checkpoint
from verbs import run

from bench.engines.reference import find_reference
from bench.measure.accuracy.evaluate import bundle_logits
from bench.measure.accuracy.task_metric import paired_loss
from models.checkpoint import load_checkpoint
from models.data.texts import read_texts
from models.finetuning.finetune import FinetuneConfig, Splits, finetune
from models.finetuning.predict import predict
from models.store.folder import ModelFolder
from models.task import Task
from models.tokenizer import Tokenizer
from models.train.loop import TrainingConfig
from service.model.bundle import Bundle

TRAIN, DEV, TEST = make_texts(count=120, seed=1), make_texts(count=120, seed=2), make_texts(count=150, seed=3)
LABELS = ("mixed", "negative", "positive")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, ModelFolder, ModelFolder]:
    """A folder of files, a classifier, and a better one of another width of training."""
    folder, classifier = make_learned(tmp_path_factory.mktemp("better"), TRAIN, DEV)
    write_csv(folder / "test.csv", TEST)
    make_tiny_checkpoint(folder / "large", layers=3, seed=7)
    config = FinetuneConfig(max_tokens=32, training=TrainingConfig(epochs=10, batch_size=16, learning_rate=2e-3))
    learned = Splits(make_texts(count=500, seed=4), DEV)
    return folder, classifier, finetune(str(folder / "large"), learned, config, folder / "store").folder


@pytest.fixture
def compress(made, capsys, monkeypatch):
    """Run `prunella compress`; return exit code, last line and stderr. Times come from bytes."""
    time_by_bytes(monkeypatch)
    folder, classifier, _ = made

    def start(*arguments: object, model: ModelFolder = classifier):
        return run(capsys, monkeypatch, *compress_learned(folder, model), "--test", folder / "test.csv", *arguments)

    return start


def logits_of(folder: Path, rows: list) -> np.ndarray:
    task = Task.read(folder / "task.json")
    tokenizer = Tokenizer.open(folder, task.max_tokens)
    return predict(load_checkpoint(folder), tokenizer.encode(rows), tokenizer)


def write_scores(path: Path, model: ModelFolder, rows: list, order=(0, 1, 2)) -> Path:
    scores = Task(labels=LABELS).scores(logits_of(model.path, rows))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", *(LABELS[i] for i in order)])
        writer.writerows(
            [row[0], *(repr(float(line[i])) for i in order)] for row, line in zip(rows, scores, strict=True)
        )
    return path


def heal_of(line: dict) -> dict:
    lineage = json.loads((Path(line["folder"]) / "manifest.json").read_text())["lineage"]
    return next(step for step in lineage if step["stage"] == "heal")


def test_the_loss_is_reported_against_each_teacher_on_the_same_rows(made, compress, tmp_path):
    _, _, better = made
    scores = write_scores(tmp_path / "scores.csv", better, [*TRAIN.rows, *DEV.rows, *TEST.rows], order=(2, 0, 1))
    code, line, err = compress("--teacher", better.path, "--teacher-scores", scores)
    assert code == 0, err
    assert [one["teacher"] for one in line["teachers"]] == [str(better.path), str(scores), "mean"]
    task, truth = Task(labels=LABELS), TEST.targets(Task(labels=LABELS))
    ours, theirs = bundle_logits(Path(line["folder"]), TEST.rows), logits_of(better.path, TEST.rows)
    wanted = paired_loss("single", truth, task.decide(theirs), task.decide(ours))
    for one in line["teachers"]:
        assert one["rows"] == line["rows"] == 150
        assert one["loss_points"] == pytest.approx(wanted.loss_points, abs=0.01)
        assert one["accuracy"] == pytest.approx((task.decide(theirs) == truth).mean())
    assert line["loss_points"] != line["teachers"][0]["loss_points"]  # the model is another one
    assert "healing learns the answers of" in err
    assert json.loads((Path(line["folder"]) / "report.json").read_text())["teachers"] == line["teachers"]


def test_the_student_is_nearer_to_its_teacher_than_a_student_of_the_model(made, compress):
    _, _, better = made
    wanted = Task(labels=LABELS).scores(logits_of(better.path, TRAIN.rows))
    distances = []
    for arguments in ((), ("--teacher", better.path)):
        code, line, err = compress(*arguments, "--epochs", 40, "--learning-rate", 1e-3)
        assert code == 0, err
        ours = Task(labels=LABELS).scores(bundle_logits(Path(line["folder"]), TRAIN.rows))
        distances.append(float(np.abs(ours - wanted).mean()))
    assert distances[1] < 0.8 * distances[0]


def test_teachers_are_part_of_the_identity_by_their_contents(made, compress, tmp_path):
    _, classifier, better = made
    copy = shutil.copytree(better.path, tmp_path / "copy")
    plain, taught, same, other = (
        compress(*arguments)[1]
        for arguments in (
            (), ("--teacher", better.path), ("--teacher", copy),
            ("--teacher", better.path, "--teacher", classifier.path),
        )
    )  # fmt: skip
    assert "teachers" not in heal_of(plain)["config"]
    assert heal_of(taught)["config"]["teachers"] == [[better.manifest.digest()]]
    assert same["folder"] == taught["folder"]
    assert same["reused"]
    assert len({one["folder"] for one in (plain, taught, other)}) == 3


def test_scores_without_the_labelled_rows_teach_and_give_no_loss(made, compress, tmp_path):
    scores = write_scores(tmp_path / "scores.csv", made[2], TRAIN.rows)
    code, line, err = compress("--teacher-scores", scores)
    assert code == 0, err
    assert line["teachers"] == [{"teacher": str(scores), "models": 1}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teacher", "{tmp}/two"], "has 2 labels (LABEL_0, LABEL_1), the model"),
        (["--teacher", "{tmp}/random"], "agrees with"),
        (["--teacher", "{tmp}/multi"], "is a multi model, and the task of the model"),
        (["--teacher", "{tmp}/nowhere"], "nowhere is not a folder"),
        (["--teacher-logits"], "--teacher-logits says what --teacher-scores FILE holds"),
        (["--teacher-scores", "{tmp}/few.csv"], "has no scores for 20 of 120 rows"),
        (["--nearest", "5"], "--nearest takes lines of --texts FILE"),
        (["--student-minutes", "5"], "--student-minutes limits"),
        (["--student", "builtin:other"], "not a built-in encoder"),
    ],
)  # fmt: skip
def test_bad_teachers_are_one_sentence(made, compress, tmp_path, arguments, message):
    make_tiny_checkpoint(tmp_path / "two")
    make_tiny_checkpoint(tmp_path / "random", labels=3, seed=5)
    config = json.loads((tmp_path / "random" / "config.json").read_text())
    make_tiny_checkpoint(tmp_path / "multi", labels=3)
    problem = config | {"problem_type": "multi_label_classification"}
    (tmp_path / "multi" / "config.json").write_text(json.dumps(problem))
    write_scores(tmp_path / "few.csv", made[2], TRAIN.rows[:100])
    code, line, err = compress(*(one.format(tmp=tmp_path, better=made[2].path) for one in arguments))
    assert (code, line) == (2, None)
    assert message in err.splitlines()[-1]
    assert "run the teacher" not in err


def test_a_bad_teacher_is_refused_before_the_nearest_texts_are_chosen(made, compress, monkeypatch, tmp_path):
    monkeypatch.setattr("compress.inputs.read.nearest_texts", None)  # calling it would be a TypeError
    make_tiny_checkpoint(tmp_path / "two")
    code, _, err = compress("--teacher", tmp_path / "two", "--texts", made[0] / "dev.csv", "--nearest", 5)
    assert code == 2
    assert "has 2 labels (LABEL_0, LABEL_1), the model" in err.splitlines()[-1]


def test_a_mode_without_training_has_no_teacher(made, capsys, monkeypatch):
    command = [one for one in compress_learned(made[0], made[1]) if one not in ("--epochs", 2)]
    code, _, err = run(capsys, monkeypatch, *command, "--mode", "instant", "--teacher", made[2].path)
    assert code == 2
    assert "--mode instant trains nothing: leave out --teacher" in err.splitlines()[-1]


def test_a_small_encoder_learns_a_large_model_and_is_compared_with_it(made, compress):
    folder, _, big = made
    code, line, err = compress("--student", folder / "encoder", model=big)
    assert code == 0, err
    assert line["student"]["asked"] == str(folder / "encoder")
    (choice,) = line["student"]["choices"]
    assert choice["taken"] == str(folder / "encoder")
    task, truth = Task(labels=LABELS), TEST.targets(Task(labels=LABELS))
    theirs = task.decide(logits_of(big.path, TEST.rows))
    ours = task.decide(bundle_logits(Path(line["folder"]), TEST.rows))
    assert line["loss_points"] == pytest.approx(paired_loss("single", truth, theirs, ours).loss_points, abs=0.01)
    largest = max(path.stat().st_size for path in folder.glob("store/stock-*/model.onnx"))
    assert line["p50_ms"]["ort_fp32"] == pytest.approx(largest * 1e-6, rel=1e-3)
    lineage = json.loads((Path(line["folder"]) / "manifest.json").read_text())["lineage"]
    assert next(step for step in lineage if step["stage"] == "prune")["config"]["baseline"] == big.id
    distilled = ModelFolder.open(Path(next(iter(line["student"]["distilled"].values()))))
    assert "teachers" in distilled.manifest.lineage[-1].config
    assert find_reference(Bundle.open(Path(line["folder"])), folder / "store").id == big.id


def test_auto_takes_what_loses_less_and_says_why(made, compress, monkeypatch):
    folder, _, big = made
    small = str(folder / "encoder")
    monkeypatch.setattr("compress.ways.SMALL", small)
    code, line, err = compress("--student", "auto", model=big)
    assert code == 0, err
    (choice,) = line["student"]["choices"]
    losses = {one["way"]: one["choosing_loss_points"] for one in choice["ways"]}
    assert losses.keys() == {"cut", small}
    assert losses[choice["taken"]] == min(losses.values())
    assert f"--student auto takes '{choice['taken']}' for" in err
    assert choice["reason"] in err
    taken = next(one for one in choice["ways"] if one["way"] == choice["taken"])
    assert taken["folder"] == line["folder"]


def test_auto_delivers_the_cut_model_if_the_small_one_has_learned_too_little(made, compress, monkeypatch):
    folder, _, big = made
    small = str(folder / "encoder")
    monkeypatch.setattr("compress.ways.SMALL", small)
    code, line, err = compress("--student", "auto", "--student-minutes", "1e-6", model=big)
    assert code == 0, err
    (choice,) = line["student"]["choices"]
    assert choice["taken"] == "cut"
    failure = next(one["failed"] for one in choice["ways"] if one["way"] == small)
    assert "is not better than guessing" in failure
    assert f"WARNING: '{small}' reaches no target: {failure}" in err


def test_a_missing_encoder_is_named_before_the_other_way_takes_its_time(made, compress, monkeypatch):
    monkeypatch.setattr("compress.ways.SMALL", "builtin:other")
    code, line, err = compress("--student", "auto", model=made[2])
    assert (code, line) == (2, None)
    assert "not a built-in encoder" in err.splitlines()[-1]
    assert "cut" not in err


def test_rows_without_labels_teach_a_small_encoder(made, compress, tmp_path):
    folder, _, big = made
    bare = tmp_path / "bare.csv"
    with bare.open("w", newline="") as file:
        csv.writer(file).writerows([["text"], *(list(row) for row in TRAIN.rows)])
    more = write_csv(tmp_path / "more.csv", make_texts(count=60, seed=8))
    code, line, err = compress("--train", bare, "--texts", more, "--student", folder / "encoder", model=big)
    assert code == 0, err
    distilled = ModelFolder.open(Path(next(iter(line["student"]["distilled"].values()))))
    settings = distilled.manifest.lineage[-1].config
    assert settings["teaching"]["weight"] == 1
    assert settings["texts"]
    assert Task.read(distilled.path / "task.json").labels == LABELS
    assert read_texts(bare).labels is None
