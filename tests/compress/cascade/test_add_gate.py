"""A bundle gets a gate: the bundle with it answers as its parts do, and what cannot work is refused in a sentence."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from bundles import make_tiny_bundle
from films import film_texts
from tiny import make_tiny_checkpoint

from compress.cascade.add_gate import CascadeConfig, CascadeTexts, add_gate, check_task
from compress.cascade.row_checks import name_unseen, say_of_threshold, unseen_labels
from models.data.texts import Texts
from models.errors import InputError
from models.finetuning.finetune import FinetuneConfig, Splits, finetune
from models.store.folder import ModelFolder, find_folder
from models.task import Task
from models.train.loop import TrainingConfig
from service.model.bundle import Bundle

LOSS = 4.0  # points: 75 rows can show it


TEXTS = CascadeTexts(film_texts(400, 1), film_texts(300, 2), film_texts(200, 3))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cascade")


@pytest.fixture(scope="module")
def bundle(store: Path) -> ModelFolder:
    return ModelFolder.open(make_tiny_bundle(store))


@pytest.fixture(scope="module")
def classifier(bundle: ModelFolder, store: Path) -> Path:
    step = bundle.manifest.lineage[-1]
    path = find_folder([store], "finetune", step.parents[0])
    assert path is not None
    return path


def test_the_bundle_with_a_gate_has_the_files_of_the_bundle_and_the_bound(bundle, store):
    cascade = add_gate(bundle, TEXTS, None, CascadeConfig(max_loss=LOSS), store)
    assert cascade.result is not None
    opened = Bundle.open(cascade.result.folder.path)
    assert opened.gate is not None
    info, summary = opened.gate.info, cascade.summary["cascade"]
    assert (info.reference, info.max_loss, info.confidence) == ("student", LOSS, 0.95)
    assert info.rows <= 300
    assert info.bound_points <= LOSS
    assert info.disagreements is not None
    assert {"share", "threshold", "bound_points", "confidence", "rows", "mean_ms", "p50_ms", "p95_ms"} <= set(summary)
    assert summary["speedup_mean"] is None  # without the full model there is nothing to compare with
    assert summary["loss_against"] == "student"
    assert summary["test_rows"] == 200
    files = {name: file for name, file in bundle.manifest.files.items() if name != "bundle.json"}
    assert {name: opened.folder.manifest.files[name] for name in files} == files
    described = json.loads((opened.folder.path / "bundle.json").read_text())
    assert described.pop("cascade") == {
        "share": summary["share"], "max_loss": LOSS, "bound_points": summary["bound_points"], "confidence": 0.95,
        "reference": "student", "rows": info.rows,
    }  # fmt: skip
    plain = json.loads((bundle.path / "bundle.json").read_text())
    assert plain.pop("cascade") is None
    assert described == plain
    assert json.loads((opened.folder.path / "report.json").read_text())["cascade"] == summary


def test_losses_are_those_of_the_cascades_answers_on_the_test_rows(bundle, store):
    from prunella import Classifier

    cascade = add_gate(bundle, TEXTS, None, CascadeConfig(max_loss=LOSS), store)
    assert cascade.result is not None
    assert TEXTS.test is not None
    truth, texts = TEXTS.test.labels, [row[0] for row in TEXTS.test.rows]
    ours, student = Classifier(cascade.result.folder.path)(texts), Classifier(bundle.path)(texts)
    assert truth is not None
    right = [sum(one.label == t for one, t in zip(found, truth, strict=True)) for found in (student, ours)]
    assert cascade.summary["cascade"]["loss_points"] == pytest.approx(100 * (right[0] - right[1]) / len(texts))
    assert cascade.summary["cascade"]["test_share"] == sum(one.stage == "gate" for one in ours) / len(texts)


def test_with_the_full_model_the_gate_learns_from_it_and_is_compared_with_it(bundle, classifier, store):
    config = CascadeConfig(max_loss=LOSS, against="full model")
    cascade = add_gate(bundle, TEXTS, classifier, config, store)
    assert cascade.result is not None, cascade.summary
    summary = cascade.summary["cascade"]
    assert (summary["bounded_against"], summary["loss_against"]) == ("full model", "full model")
    assert summary["speedup_mean"] > 0
    assert summary["reference_mean_ms"] > 0


def test_a_second_run_reuses_the_gate_and_the_bundle(bundle, store):
    first, second = (add_gate(bundle, TEXTS, None, CascadeConfig(max_loss=LOSS), store) for _ in range(2))
    assert first.result is not None
    assert second.result is not None
    assert second.result.reused
    assert first.result.folder.id == second.result.folder.id


def test_too_few_rows_leave_the_gate_out_and_say_how_many_are_needed(bundle, store):
    few = dataclasses.replace(TEXTS, threshold=TEXTS.threshold.take(range(40)))
    cascade = add_gate(bundle, few, None, CascadeConfig(max_loss=0.5), store)
    assert cascade.result is None
    assert cascade.summary["cascade"] is None
    assert "it takes 6" in cascade.summary["cascade_problem"]


def test_labels_are_not_needed_for_training_texts(bundle, store):
    unlabelled = Texts(TEXTS.train.rows, None, "unlabelled")
    texts = dataclasses.replace(TEXTS, train=unlabelled, extra=Texts(film_texts(50, 9).rows, None, "extra"))
    cascade = add_gate(bundle, texts, None, CascadeConfig(max_loss=LOSS), store)
    assert set(cascade.summary) <= {"cascade", "cascade_problem"}


@pytest.mark.parametrize("role", ["threshold", "test"])
def test_rows_that_judge_need_labels(bundle, store, role):
    texts = dataclasses.replace(TEXTS, **{role: Texts(TEXTS.threshold.rows, None, "no labels")})
    with pytest.raises(InputError, match="no labels has no label column"):
        add_gate(bundle, texts, None, CascadeConfig(max_loss=LOSS), store)


def test_a_label_that_the_model_lacks_is_named(bundle, store):
    other = Texts(TEXTS.threshold.rows, ["positive"] * 299 + ["mixed"], "mixed labels")
    with pytest.raises(InputError, match="mixed"):
        add_gate(bundle, dataclasses.replace(TEXTS, threshold=other), None, CascadeConfig(max_loss=LOSS), store)


def test_training_texts_do_not_decide_the_threshold(bundle, store, capsys):
    both = Texts([*TEXTS.threshold.rows, *TEXTS.train.rows], [*TEXTS.threshold.labels, *TEXTS.train.labels], "both")
    cascade = add_gate(bundle, dataclasses.replace(TEXTS, threshold=both), None, CascadeConfig(max_loss=LOSS), store)
    assert "rows of both are also training texts" in capsys.readouterr().err
    assert cascade.result is None or cascade.summary["cascade"]["rows"] <= 300
    with pytest.raises(InputError, match="all rows of films 1 are also training texts"):
        add_gate(bundle, dataclasses.replace(TEXTS, threshold=TEXTS.train), None, CascadeConfig(max_loss=LOSS), store)


def test_test_rows_that_taught_or_decided_are_left_out_apart_from_case_and_punctuation(bundle, store, capsys):
    same = [(row[0].upper() + " !",) for row in (*TEXTS.train.rows[:30], *TEXTS.threshold.rows[:20])]
    mixed = Texts([*TEXTS.test.rows, *same], [*TEXTS.test.labels, *(["positive"] * 50)], "mixed test")
    cascade = add_gate(bundle, dataclasses.replace(TEXTS, test=mixed), None, CascadeConfig(max_loss=LOSS), store)
    assert "rows of mixed test are also training or validation texts" in capsys.readouterr().err
    assert cascade.summary["cascade"]["test_rows"] <= 200
    with pytest.raises(InputError, match="all rows of films 2 are also training or validation texts"):
        add_gate(bundle, dataclasses.replace(TEXTS, test=TEXTS.threshold), None, CascadeConfig(max_loss=LOSS), store)


def test_too_few_training_texts_are_refused_before_any_model_answers(bundle, store, monkeypatch):
    monkeypatch.setattr("compress.cascade.add_gate.Student", None)  # calling it would be a TypeError
    few = TEXTS.train.take(range(99))
    with pytest.raises(InputError, match="learned from 100 training texts or more, found 99"):
        add_gate(bundle, dataclasses.replace(TEXTS, train=few), None, CascadeConfig(max_loss=LOSS), store)


def test_rows_that_cannot_show_a_bound_are_named(capsys):
    task, rows = Task(labels=("negative", "positive")), film_texts(200, 7)
    say_of_threshold(rows, task, 0.5)
    assert "films 7 decide the threshold, and a loss of at most 0.5 points takes 6" in capsys.readouterr().err
    say_of_threshold(rows.take([i for i, label in enumerate(rows.labels) if label == "positive"] * 4), task, 20)
    err = capsys.readouterr().err
    assert "no row of films 7 has the label negative: the bound says nothing about it" in err
    assert "rows of films 7 are repetitions" in err
    say_of_threshold(rows, task, 4)
    assert capsys.readouterr().err == ""


def test_another_model_than_the_bundles_own_is_named(bundle, store, tmp_path, capsys):
    make_tiny_checkpoint(tmp_path / "encoder", seed=9)
    config = FinetuneConfig(max_tokens=32, training=TrainingConfig(epochs=1))
    other = finetune(str(tmp_path / "encoder"), Splits(TEXTS.train, TEXTS.test), config, tmp_path / "store").folder
    add_gate(bundle, TEXTS, other.path, CascadeConfig(max_loss=LOSS), store, measure=False)
    assert "is not the model that" in capsys.readouterr().err


def test_a_model_of_another_kind_or_with_other_labels_is_refused(bundle, store, tmp_path):
    for name, changes, message in (
        ("multi", {"problem_type": "multi_label_classification"}, "is a multi model, and the bundle a single one"),
        ("other", {"id2label": {"0": "a", "1": "b"}}, r"has labels that are not those of the bundle \(a, b\)"),
    ):
        make_tiny_checkpoint(tmp_path / name)
        path = tmp_path / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        with pytest.raises(InputError, match=message):
            add_gate(bundle, TEXTS, tmp_path / name, CascadeConfig(max_loss=LOSS), store)


def test_a_bundle_that_gets_no_better_gate_keeps_its_own(bundle, store, capsys):
    first = add_gate(bundle, TEXTS, None, CascadeConfig(max_loss=LOSS), store, measure=False)
    few = dataclasses.replace(TEXTS, threshold=TEXTS.threshold.take(range(20)))
    again = add_gate(first.result.folder, few, None, CascadeConfig(max_loss=LOSS), store)
    assert again.summary["cascade"] is None
    assert "the bundle gets no gate, and keeps the one that it has" in capsys.readouterr().err


def test_a_label_without_training_texts_is_named_also_where_the_gate_is_reused(capsys):
    task = Task(labels=("negative", "positive"))
    # many small probabilities are no text of a label
    assert unseen_labels(task, np.array([[0.2, 0.8]] * 40, dtype=np.float32)) == ["negative"]
    assert unseen_labels(task, np.eye(2, dtype=np.float32)[[0] + [1] * 40]) == []
    name_unseen(["negative"])
    assert "no training text has the label negative" in capsys.readouterr().err
    name_unseen([])
    assert capsys.readouterr().err == ""


def test_a_bound_against_a_model_that_is_not_given_is_refused(bundle, store):
    with pytest.raises(InputError, match="give --model FOLDER"):
        add_gate(bundle, TEXTS, None, CascadeConfig(max_loss=LOSS, against="full model"), store)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Task(labels=("a", "b"), pair=True), "reads pairs of texts"),
        (Task(kind="multi", labels=("a", "b")), "gives several labels"),
        (Task(kind="regression", labels=("value",)), "gives a number"),
    ],
)
def test_tasks_without_a_gate_are_refused(task, message):
    with pytest.raises(InputError, match=message):
        check_task(task, Path("model"))
