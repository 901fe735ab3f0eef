"""Rows that choose are not rows that are reported: halves that look alike, and what fine-tuning does with them."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from labelled import make_texts
from sklearn.metrics import f1_score
from tiny import make_tiny_checkpoint

from models.data.roles import FEWEST_ROWS, RowRoles, shared_rows
from models.data.split import halve_rows
from models.data.texts import Texts
from models.finetuning.finetune import FinetuneConfig, Splits, finetune
from models.finetuning.metrics import choose_thresholds
from models.finetuning.predict import predict
from models.finetuning.seeds import finetune_seeds
from models.store.stage import StageResult
from models.task import Task, sigmoid
from models.tokenizer import Tokenizer
from models.train.loop import TrainingConfig


def rows_of(labels, kind="single") -> Texts:
    return Texts([(f"text {i}",) for i in range(len(labels))], labels, "rows.csv", kind)


@pytest.mark.parametrize("seed", [0, 1])
def test_halves_have_every_label_as_often_and_no_row_twice(seed):
    labels = list(np.random.default_rng(seed).permutation(["a"] * 95 + ["b"] * 5 + ["once"]))
    first, second = halve_rows(labels, "single", 101, seed)
    assert sorted([*first, *second]) == list(range(101))
    assert len(first) == 51
    counts = [Counter(labels[i] for i in half) for half in (first, second)]
    assert all(abs(counts[0][name] - counts[1][name]) <= 1 for name in "ab")
    assert halve_rows(labels, "single", 101, seed) == (first, second)
    assert halve_rows(labels, "single", 101, seed + 9) != (first, second)


def test_halves_of_numbers_of_several_labels_and_of_none():
    numbers = np.random.default_rng(0).normal(size=200).tolist()
    first, second = halve_rows(numbers, "regression", 200, 0)
    assert np.mean([numbers[i] for i in first]) == pytest.approx(np.mean([numbers[i] for i in second]), abs=0.05)
    several = make_texts("multi", 120, 3).labels
    halves = halve_rows(several, "multi", 120, 0)
    for name in ("bad", "good", "rich"):
        counts = [sum(name in several[i] for i in half) for half in halves]
        assert abs(counts[0] - counts[1]) <= 1
    first, second = halve_rows(None, "single", 7, 0)
    assert (len(first), sorted([*first, *second])) == (4, list(range(7)))
    assert halve_rows(["a"], "single", 1, 0) == ([0], [])


def test_few_rows_are_not_split_and_that_is_said_aloud(capsys):
    few = rows_of(["a"] * 19 + ["b"])
    roles = RowRoles.of(few)
    roles.announce("a point")
    assert roles.judged is roles.choosing is roles.everything is few
    assert roles.summary() == {"choosing_rows": 20, "chosen_on_reported_rows": True}
    assert "WARNING: the same 20 rows of rows.csv are used to choose a point and to report" in capsys.readouterr().err


def test_enough_rows_are_split_and_that_is_said_too(capsys):
    roles = RowRoles.of(rows_of(["a", "b"] * (FEWEST_ROWS // 2)))
    roles.announce("a point")
    assert shared_rows(roles.judged, roles.choosing) == 0
    assert len(roles.everything) == FEWEST_ROWS
    assert roles.summary() == {"choosing_rows": 50, "chosen_on_reported_rows": False}
    message = "50 rows of rows.csv are used to choose a point; results are reported on 50 other rows"
    assert message in capsys.readouterr().err


def test_two_files_that_hold_the_same_rows_are_no_two_sets(capsys):
    rows = rows_of(["a", "b"] * 60)
    roles = RowRoles(rows, rows.take(range(80)))
    assert roles.summary()["chosen_on_reported_rows"]
    roles.announce("a point")
    assert "WARNING: 80 of 80 rows of rows.csv are also used to choose a point" in capsys.readouterr().err


TRAINING = TrainingConfig(epochs=4, batch_size=16, learning_rate=2e-3, precision="fp32")
CONFIG = FinetuneConfig(max_tokens=32, training=TRAINING)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    make_tiny_checkpoint(folder)
    return str(folder)


def scores_of(folder, texts: Texts) -> np.ndarray:
    from models.checkpoint import load_checkpoint

    tokenizer = Tokenizer.open(folder, 32)
    return sigmoid(predict(load_checkpoint(folder), tokenizer.encode(texts.rows), tokenizer))


def test_thresholds_are_scored_on_rows_that_did_not_set_them(encoder, tmp_path):
    splits = Splits(make_texts("multi", 96, 1), make_texts("multi", 120, 2))
    folder = finetune(encoder, splits, CONFIG, tmp_path).folder.path
    roles, task = RowRoles.of(splits.validation), Task.read(folder / "task.json")
    report = json.loads((folder / "report.json").read_text())
    chosen = choose_thresholds(roles.choosing.targets(task), scores_of(folder, roles.choosing))
    assert task.thresholds == pytest.approx(chosen)
    given = scores_of(folder, roles.judged) >= np.array(chosen)
    assert report["macro_f1"] == pytest.approx(f1_score(roles.judged.targets(task), given, average="macro"))
    assert (report["rows"], report["choosing_rows"], report["chosen_on_reported_rows"]) == (60, 60, False)


def test_the_best_of_several_seeds_is_reported_on_rows_that_did_not_choose_it(encoder, tmp_path):
    splits = Splits(make_texts(count=64, seed=1), make_texts(count=120, seed=2))
    best, told = finetune_seeds(encoder, splits, CONFIG, tmp_path, 3)
    roles = RowRoles.of(splits.validation)
    truths = [np.array(part.labels) for part in (roles.choosing, roles.judged)]
    accuracy = []
    for folder in told["folders"]:
        names = np.array(Task.read(best.folder.path / "task.json").labels)
        parts = zip(truths, (roles.choosing, roles.judged), strict=True)
        accuracy.append([(names[scores_of(folder, part).argmax(1)] == truth).mean() for truth, part in parts])
    choosing, reported = np.array(accuracy).T
    assert told["folders"][int(choosing.argmax())] == str(best.folder.path)
    assert told["spread"]["accuracy"]["values"] == pytest.approx(reported.tolist())
    report = json.loads((best.folder.path / "report.json").read_text())
    assert (report["rows"], report["chosen_on_reported_rows"]) == (60, False)


def test_the_best_seed_is_that_of_the_rows_that_choose_though_another_is_better_on_those_that_are_reported(
    tmp_path, monkeypatch
):
    choosing, reported = [0.7, 0.9, 0.8], [0.9, 0.6, 0.8]

    def made(_encoder, _splits, config, _store):
        seed, folder = config.training.seed, tmp_path / str(config.training.seed)
        folder.mkdir()
        report = {"accuracy": reported[seed], "details": {"choosing": {"accuracy": choosing[seed]}}}
        (folder / "report.json").write_text(json.dumps(report))
        return StageResult(SimpleNamespace(path=folder, id=str(seed)), reused=False)

    monkeypatch.setattr("models.finetuning.seeds.finetune", made)
    monkeypatch.setattr("models.finetuning.seeds.complete", lambda _encoder, _splits, config, _store: config)
    best, told = finetune_seeds("encoder", Splits(make_texts(count=4), make_texts(count=4)), CONFIG, tmp_path, 3)
    assert (best.folder.id, told["chosen_seed"]) == ("1", 1)
    assert told["spread"]["accuracy"]["values"] == reported


def test_where_nothing_is_chosen_all_rows_are_reported(encoder, tmp_path):
    splits = Splits(make_texts(count=64, seed=1), make_texts(count=120, seed=2))
    report = json.loads((finetune(encoder, splits, CONFIG, tmp_path).folder.path / "report.json").read_text())
    assert report["rows"] == 120
    assert "choosing_rows" not in report
    watched = CONFIG.model_copy(update={"training": TRAINING.model_copy(update={"metric": "accuracy"})})
    report = json.loads((finetune(encoder, splits, watched, tmp_path).folder.path / "report.json").read_text())
    assert (report["rows"], report["choosing_rows"]) == (60, 60)  # the best step was chosen
