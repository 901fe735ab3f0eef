"""What `compress` ships and refuses: losses on rows that chose nothing, labels that collapse, one answer for all."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compressing import labelled_inputs
from labelled import make_learned, write_csv
from test_candidates import point
from tiny import BAD, GOOD, OTHER, make_tiny_checkpoint
from verbs import run

from bench.measure.accuracy.difference import Difference
from compress.candidate_report import summary
from compress.candidates import select_best
from compress.config import CompressConfig
from compress.guards import check_reported_loss, refuse_uninformative
from compress.inputs.inputs import CompressionInputs
from compress.inputs.source import check_inputs
from export.graph_precision import Precision
from models.data.texts import Texts
from models.errors import InputError, TargetError
from models.task import Task

TASK = Task(labels=("rare", "usual"), max_tokens=32)


def imbalanced(count: int, seed: int, every: int = 20) -> Texts:
    """Rows of which one in twenty (or in `every`) is rare: it has a bad word, and only that tells."""
    draw = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        words = [*draw.choice(OTHER, 4), str(draw.choice(BAD if i % every == 0 else GOOD))]
        rows.append((" ".join(str(word) for word in draw.permutation(words)),))
    return Texts(rows, ["usual" if i % every else "rare" for i in range(count)], f"{count} rows")


def test_one_training_text_is_refused_before_any_work(tmp_path):
    make_tiny_checkpoint(tmp_path / "model")
    inputs = labelled_inputs(tmp_path / "model", tmp_path / "store")
    with pytest.raises(InputError, match="one training text: wanted 2 or more"):
        check_inputs(replace(inputs, train=inputs.train.take([0])))


def loss(points: float, spread: float, rows: int = 1000) -> Difference:
    return Difference(rows=rows, loss_points=points, loss_interval=(points - spread, points + spread))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model that learned to tell the rare label, imbalanced rows to judge it by, and its texts as files."""
    folder, classifier = make_learned(
        tmp_path_factory.mktemp("imbalanced"), imbalanced(400, 1, every=2), imbalanced(20, 2)
    )
    write_csv(folder / "many.csv", imbalanced(200, 3))
    return folder, classifier


def command(folder: Path, classifier: Path, *more: object, validation: str = "many.csv") -> tuple[object, ...]:
    return (
        "compress", classifier, "--train", folder / "train.csv", "--validation", folder / validation, "--mode",
        "instant", "--size-mb", 0.1, "--tolerance", 0.1, "--store", folder / "store", *more,
    )  # fmt: skip


def test_an_honest_teacher_of_imbalanced_rows_is_not_refused(made, capsys):
    _, classifier = made
    for rows in (20, 200):
        assert check_inputs(CompressionInputs(classifier, imbalanced(400, 1), imbalanced(rows, 3))) > 0.9
    assert "WARNING" not in capsys.readouterr().err


def test_a_teacher_that_is_right_less_often_than_the_usual_answer_but_knows_the_rare_one_is_not_refused(made):
    _, classifier = made
    dev = imbalanced(200, 3)
    labels = list(dev.labels)
    labels[0:120:20] = ["usual"] * 6  # of the ten rows that the model calls rare, six are labelled otherwise
    accuracy = check_inputs(CompressionInputs(classifier, imbalanced(400, 1), Texts(dev.rows, labels, "noisy")))
    assert accuracy < 1 - labels.count("rare") / 200  # the usual answer alone


def test_a_student_that_gives_the_usual_answer_to_all_is_never_shipped(made, capsys, monkeypatch):
    folder, classifier = made

    def constant(_path, rows):
        return np.tile(np.array([[0.0, 3.0]], dtype=np.float32), (len(rows), 1))

    monkeypatch.setattr("compress.candidates.bundle_logits", constant)
    for metric in ("accuracy", "macro_f1"):
        code, told, err = run(
            capsys, monkeypatch, *command(folder, classifier.path, "--max-loss", 100, "--metric", metric)
        )
        assert (code, told) == (1, None), err
        assert "the smaller model answers all 200 rows with 'usual'; label 'rare' is found in 0 of 10 rows" in err
        assert "It is not shipped, whatever --max-loss says" in err


def test_a_label_that_collapses_is_named_in_the_json_and_on_stderr(made, capsys, monkeypatch):
    folder, classifier = made
    rare = [i for i, label in enumerate(imbalanced(200, 3).labels) if label == "rare"]
    lost = {imbalanced(200, 3).rows[i] for i in rare[:6]}

    def forgetful(_path, rows):
        is_rare = [bool(set(row[0].split()) & set(BAD)) and row not in lost for row in rows]
        return np.array([[3.0, 0.0] if one else [0.0, 3.0] for one in is_rare], dtype=np.float32)

    monkeypatch.setattr("compress.candidates.bundle_logits", forgetful)
    code, told, err = run(capsys, monkeypatch, *command(folder, classifier.path, "--max-loss", 100))
    assert code == 0, err
    assert [one["label"] for one in told["collapsed_labels"]] == ["rare"]
    assert "WARNING: label 'rare' is found in 4 of 10 rows, by the full model in 10" in err
    assert told["accuracy"] > 0.9
    code, _, err = run(
        capsys, monkeypatch, *command(folder, classifier.path, "--max-loss", 5, "--metric", "macro_f1")
    )
    assert code == 1
    assert "points of macro F1" in err


def test_a_report_says_which_rows_chose_and_how_many_it_takes(made, capsys, monkeypatch):
    folder, classifier = made
    code, told, err = run(capsys, monkeypatch, *command(folder, classifier.path, "--max-loss", 100))
    assert code == 0, err
    assert (told["rows"], told["choosing_rows"], told["chosen_on_reported_rows"]) == (100, 100, False)
    assert told["judged_on_training_rows"] == "unknown" or told["judged_on_training_rows"] is False
    assert told["loss_is"] == "accuracy"
    assert "100 rows of" in err
    report = json.loads((Path(told["folder"]) / "report.json").read_text())
    assert report["choosing_rows"] == 100


def test_the_loss_that_is_told_is_that_of_the_rows_that_are_reported(made, capsys, monkeypatch):
    folder, classifier = made
    dev = imbalanced(200, 3)
    truth = dict(zip(dev.rows, dev.labels, strict=True))

    def wrong_on_a_fifth_of_the_later_half(_path, rows):
        assert len(rows) == 200
        usual = [(truth[row] == "usual") != (150 <= i < 170) for i, row in enumerate(rows)]
        return np.array([[0.0, 3.0] if one else [3.0, 0.0] for one in usual], dtype=np.float32)

    monkeypatch.setattr("compress.candidates.bundle_logits", wrong_on_a_fifth_of_the_later_half)
    code, told, err = run(capsys, monkeypatch, *command(folder, classifier.path, "--max-loss", 100))
    assert code == 0, err
    assert (told["accuracy"], told["rows"]) == (pytest.approx(0.8), 100)
    assert told["loss_points"] == pytest.approx(100 * (told["reference_accuracy"] - 0.8), abs=0.01)
    assert told["choosing_loss_points"] <= 0


def test_twenty_rows_without_a_difference_are_not_sure(made, capsys, monkeypatch):
    folder, classifier = made
    truth = dict(zip(imbalanced(20, 2).rows, imbalanced(20, 2).labels, strict=True))

    def right(_path, rows):
        return np.array([[3.0, 0.0] if truth[row] == "rare" else [0.0, 3.0] for row in rows], dtype=np.float32)

    monkeypatch.setattr("compress.candidates.bundle_logits", right)
    code, told, err = run(
        capsys, monkeypatch, *command(folder, classifier.path, "--max-loss", 1, validation="dev.csv")
    )
    assert code == 0, err
    assert (told["loss_points"], told["rows"], told["loss_is_inside"]) == (0, 20, "likely")
    assert told["loss_interval"][1] > 10
    assert (told["rows_to_be_sure"], told["chosen_on_reported_rows"]) == (381, True)
    assert "381 rows or more are needed to be sure" in err
    assert "WARNING: the same 20 rows" in err


@pytest.mark.parametrize(("max_loss", "is_cut", "int8"), [(0.1, True, 0.05), (5, True, 2.5), (5, False, 5)])
def test_max_loss_reaches_int8(max_loss, is_cut, int8):
    assert CompressConfig(heal=None, max_loss=max_loss).int8_loss(is_cut) == pytest.approx(int8)


@pytest.mark.parametrize(("max_loss", "falls_back"), [(0.1, True), (5, False)])
def test_max_loss_decides_whether_sublayers_go_back_to_fp32(made, capsys, monkeypatch, max_loss, falls_back):
    """int8 of anything loses one point: half of 5 allows it, half of 0.1 does not."""
    from compress.quantization.quantize import QuantizationContext

    measure, write = QuantizationContext.agreement, "compress.quantization.quantize.write_int8"
    import compress.quantization.quantize

    real, precisions = compress.quantization.quantize.write_int8, []

    def note(model, path, pair, scales, precision):
        precisions.append(precision)
        real(model, path, pair, scales, precision)

    def lossy(subject, rows, found):
        told = measure(subject, rows, found)
        fp32 = precisions and precisions[-1] == Precision.all_fp32(subject.model.architecture)
        return told if not precisions else told.model_copy(update={"loss_points": 0.0 if fp32 else 1.0})

    monkeypatch.setattr(write, note)
    monkeypatch.setattr(QuantizationContext, "agreement", lossy)
    folder, classifier = made
    store = folder / f"store-{max_loss}"
    arguments = command(folder, classifier.path, "--max-loss", max_loss, "--store", store)
    code, _, err = run(capsys, monkeypatch, *arguments)
    assert ("stays in fp32" in err) == falls_back, (code, err)


def test_int8_falls_back_on_texts_that_the_student_did_not_learn_from(made, capsys, monkeypatch):
    import compress.pipeline

    folder, classifier = made
    seen = []
    make = compress.pipeline.make_bundle

    def note(source, texts, *more, **named):
        seen.append(texts)
        return make(source, texts, *more, **named)

    monkeypatch.setattr(compress.pipeline, "make_bundle", note)
    code, told, err = run(capsys, monkeypatch, *command(folder, classifier.path, "--max-loss", 100))
    assert code == 0, err
    learned = set(imbalanced(400, 1, every=2).rows)
    chosen = seen[-1].roles.choosing
    assert len(chosen) > 50
    assert not learned & set(chosen.rows)
    assert len(chosen) <= told["choosing_rows"]


def test_the_point_is_picked_on_rows_that_choose_and_reported_on_others(tmp_path, capsys):
    slow = point(tmp_path, 2, 0.4).model_copy(update={"choosing": loss(0.2, 0.1)})
    fast = point(tmp_path, 4, 1.2, spread=0.9).model_copy(update={"choosing": loss(0.9, 0.1)})
    faster = point(tmp_path, 8, 0.1).model_copy(update={"choosing": loss(1.1, 0.1)})
    assert select_best([slow, fast, faster], 1.0) is fast  # what is reported of `faster` chose nothing
    assert "the loss on the rows used for selection was smaller" in capsys.readouterr().err
    told = summary(fast, 1.0)
    assert (told["loss_points"], told["choosing_loss_points"], told["loss_is_inside"]) == (1.2, 0.9, "doubtful")
    shown = point(tmp_path, 4, 3.0).model_copy(update={"choosing": loss(0.9, 0.1)})
    with pytest.raises(TargetError, match=r"3\.00 points of accuracy are lost on the 1000 rows that are reported"):
        select_best([slow, shown], 1.0)


def test_the_verdict_is_told_in_words(capsys):
    check_reported_loss(loss(0.2, 0.1, rows=1000), 1.0)
    assert "the limit is surely kept" in capsys.readouterr().err
    check_reported_loss(loss(0.2, 0.1, rows=100), 1.0)
    assert "not sure; 381 rows or more are needed to be sure" in capsys.readouterr().err


def test_what_the_reference_does_not_know_cannot_be_lost():
    truth, usual = np.array([0, 1] * 20), np.ones(40, dtype=np.int64)
    refuse_uninformative(TASK, truth, usual, usual)
    with pytest.raises(TargetError, match="answers all 40 rows with 'usual'"):
        refuse_uninformative(TASK, truth, truth, usual)
    with pytest.raises(TargetError, match="hardly tells the labels of 40 rows apart"):
        refuse_uninformative(TASK, truth, truth, np.repeat([0, 1], 20))
    number, values = Task(kind="regression", labels=("value",)), np.linspace(0, 1, 40)
    refuse_uninformative(number, values, values, values[::-1])
    with pytest.raises(TargetError, match="answers all 40 rows with one number"):
        refuse_uninformative(number, values, values, np.full(40, 0.5))


def test_a_pruned_folder_is_refused_before_any_long_work(made, tmp_path, capsys, monkeypatch):
    folder, classifier = made
    run(capsys, monkeypatch, *command(folder, classifier.path, "--max-loss", 100))
    pruned = next((folder / "store").glob("prune-*"))
    before = set((folder / "store").iterdir())
    code, told, err = run(capsys, monkeypatch, *command(folder, pruned, "--max-loss", 100))
    assert (code, told) == (2, None)
    assert "is pruned already" in err
    assert set((folder / "store").iterdir()) == before


def test_the_vocabulary_stays_whole_unless_a_size_is_asked_for(made, capsys, monkeypatch):
    from compress.modes import read_trim

    assert [read_trim(None, False), read_trim(None, True)] == ["whole", "trim_if_possible"]
    assert [read_trim(True, False), read_trim(False, True)] == ["trim", "whole"]
    assert CompressConfig(heal=None).vocabulary == "whole"
