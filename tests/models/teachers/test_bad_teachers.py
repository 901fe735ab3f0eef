"""Teachers and scores that are refused in one sentence before any training."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from teaching import KINDS, Given, write_table
from tiny import make_tiny_checkpoint, make_tiny_family, write_tokenizer
from transformers import AutoModelForSequenceClassification

from models.data.texts import Texts
from models.errors import InputError
from models.task import Task
from models.teachers.matching import check_agreement

TASK = Task(labels=("rare", "usual"))


def of_rare_labels(found: int, false: int, rows: int = 200):
    """Return rows of which one in twenty is rare, and the scores of a teacher that finds some of them.

    It takes some usual ones for rare.
    """
    rare = [i % 20 == 0 for i in range(rows)]
    said = [is_rare and i < 20 * found for i, is_rare in enumerate(rare)]
    for i in [i for i in range(rows) if not rare[i]][:false]:
        said[i] = True
    labels = ["rare" if one else "usual" for one in rare]
    scores = np.array([[0.9, 0.1] if one else [0.1, 0.9] for one in said], dtype=np.float32)
    return Texts([(f"text {i}",) for i in range(rows)], labels, "rows.csv"), scores


def test_a_teacher_that_knows_the_rare_label_is_not_refused_for_being_right_less_often_than_the_usual_one():
    rows, scores = of_rare_labels(found=8, false=15)  # right in 91.5 %; the usual label alone in 95 %
    check_agreement("a", TASK, rows, scores, weak=False)


@pytest.mark.parametrize(("found", "false"), [(0, 0), (0, 15), (1, 15), (5, 95)])
def test_a_teacher_that_hardly_tells_the_labels_apart_is_refused(found, false):
    rows, scores = of_rare_labels(found, false)
    with pytest.raises(InputError, match=r"agrees with .* the most frequent label alone with 95.0%"):
        check_agreement("a", TASK, rows, scores, weak=False)


@pytest.mark.parametrize("kind", ["multi", "regression"])
def test_scores_without_a_correlation_are_refused(given, student, tmp_path, kind):
    rows = [row for name in ("train", "validation") for row in given.rows(name, kind).rows]
    labels, scores = given.scores(kind, rows)
    lines = [[row[0], *map(repr, map(float, line))] for row, line in zip(rows, 1 - scores, strict=True)]
    path = write_table(tmp_path / "reversed.csv", ["text", *labels], lines)
    code, line, err = student("--teacher-scores", path, kind=kind)
    assert (code, line) == (2, None)
    assert "have a correlation of -0." in err.splitlines()[-1]


def test_numbers_on_another_scale_are_refused(given, student, tmp_path):
    rows = [row for name in ("train", "validation") for row in given.rows(name, "regression").rows]
    labels, scores = given.scores("regression", rows)
    lines = [[row[0], repr(float(line[0]) / 20)] for row, line in zip(rows, scores, strict=True)]
    path = write_table(tmp_path / "shares.csv", ["text", *labels], lines)
    code, line, err = student("--teacher-scores", path, kind="regression")
    assert (code, line) == (2, None)
    assert "and another scale: their mean is 1 (" in err.splitlines()[-1]


def test_a_bad_teacher_is_refused_before_the_nearest_texts_are_chosen(given, student, monkeypatch):
    monkeypatch.setattr("models.retrieval.nearest_texts.nearest_texts", None)  # calling it would be a TypeError
    code, _, err = student("--teacher", given.teachers["multi"].path, "--texts", given.path("texts"), "--nearest", 5)
    assert code == 2
    assert "is a multi model" in err.splitlines()[-1]


def bad_scores(given: Given, folder: Path, change) -> Path:
    path = given.write_scores(folder / "bad.csv", names=("train", "validation"))
    with path.open(newline="") as file:
        header, *lines = csv.reader(file)
    change(header, lines)
    return write_table(path, header, lines)


def set_cell(line: int, column: int, value: object):
    return lambda head, lines: lines[line].__setitem__(column, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_cell(3, 1, 1.2), "bad.csv, line 5: 1.2 is not between 0 and 1"),
        (set_cell(3, 1, -0.2), "bad.csv, line 5: -0.2 is not between 0 and 1"),
        (lambda head, lines: lines[0].__setitem__(slice(1, 4), [0.5] * 3), "the scores sum to 1.5000, not to 1"),
        (set_cell(0, 1, "many"), "line 2: 'mixed' holds 'many', wanted a finite number"),
        (set_cell(0, 1, "nan"), "line 2: 'mixed' holds 'nan', wanted a finite number"),
        (lambda head, lines: lines.pop(0), "has no scores for 1 of 32 rows"),
        (lambda head, lines: lines.clear(), "has no rows: wanted the scores"),
        (lambda head, lines: lines.append([lines[0][0], 1, 0, 0]), "has other scores in an earlier row"),
        (lambda head, lines: head.__setitem__(1, "neutral"), "(neutral), and lacks mixed: labels are matched"),
        (lambda head, lines: head.__setitem__(0, "sentence"), "wanted 'text', or 'row'"),
        (lambda head, lines: [one.pop() for one in (head, *lines)], "has 2 labels (mixed, negative)"),
        (lambda head, lines: [one.__setitem__(slice(1, 4), [0, 0, 1]) for one in lines], "agrees with"),
        (lambda head, lines: head.__setitem__(0, "row"), "'row' holds"),
        (set_cell(0, 1, "1e39"), "wanted a finite number that float32 can hold"),
        (set_cell(0, 0, "  "), "has no scores for 1 of 32 rows"),
        (
            lambda head, lines: [one.__setitem__(0, f" {one[0].upper()} ") for one in lines],
            "(32 differ from rows of the file in spaces or upper case only): wanted scores for every row",
        ),
        (
            lambda head, lines: [one.__setitem__(slice(1, 4), [100 * float(x) for x in one[1:]]) for one in lines],
            "is not between 0 and 1: wanted probabilities (of percentages a hundredth)",
        ),
    ],
)  # fmt: skip
def test_bad_scores_are_one_sentence(given, student, tmp_path, change, message):
    code, line, err = student("--teacher-scores", bad_scores(given, tmp_path, change))
    assert (code, line) == (2, None)
    assert message in err.splitlines()[-1]


def test_a_number_of_hundreds_of_digits_is_no_score(given, student, tmp_path):
    path = given.write_scores(tmp_path / "bad.jsonl", names=("train",))
    first, *lines = path.read_text().splitlines()
    record = json.loads(first) | {"mixed": 10**400}
    path.write_text("\n".join([json.dumps(record), *lines]))
    code, _, err = student("--teacher-scores", path)
    assert code == 2
    assert "bad.jsonl, line 1: 'mixed' holds '1000" in err.splitlines()[-1]


@pytest.mark.parametrize(("factor", "message"), [(1, "holds probabilities,"), (100, "holds percentages,")])
def test_probabilities_are_not_taken_for_logits(given, student, tmp_path, factor, message):
    rows = given.rows("train").rows
    labels, scores = given.scores("single", rows)
    lines = [[row[0], *map(float, factor * line)] for row, line in zip(rows, scores, strict=True)]
    path = write_table(tmp_path / "scores.csv", ["text", *labels], lines)
    code, line, err = student("--teacher-scores", path, "--teacher-logits")
    assert (code, line) == (2, None)
    assert message in err.splitlines()[-1]


def test_columns_that_are_no_labels_are_ignored_and_rounded_probabilities_read(given, student, tmp_path):
    rows = [row for name in ("train", "validation") for row in given.rows(name).rows]
    labels, scores = given.scores("single", rows)
    table = [
        [row[0], i, "because", f"{i}.0", *(f"{x:.2f}" for x in line)]
        for i, (row, line) in enumerate(zip(rows, scores, strict=True))
    ]
    path = write_table(tmp_path / "scores.csv", ["text", "", "reason", "id", *labels], table)
    code, _, err = student("--teacher-scores", path)
    assert code == 0, err
    assert "scores.csv: these columns are no labels, and are ignored: reason, id" in err
    path = write_table(
        tmp_path / "more.csv", ["text", *labels, "neutral"], [[*one[:1], *one[4:], "0.1"] for one in table]
    )
    code, _, err = student("--teacher-scores", path, "--teacher-logits")
    assert code == 2
    assert "has 4 labels (mixed, negative, positive, neutral)" in err.splitlines()[-1]


def test_whole_numbers_of_rows_may_have_a_decimal_point(given, student, tmp_path):
    labels, scores = given.scores("single", given.rows("train").rows)
    table = [[f"{i}.0", *map(float, line)] for i, line in enumerate(scores)]
    code, _, err = student("--teacher-scores", write_table(tmp_path / "scores.csv", ["row", *labels], table))
    assert code == 0, err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teacher", "{multi}"], "is a multi model, and the task of the training rows is single (--task)"),
        (["--teacher", "{tmp}/two"], "has 2 labels (LABEL_0, LABEL_1), the training rows 3 (mixed, "),
        (["--teacher", "{tmp}/three"], "agrees with"),
        (["--teacher", "{tmp}/bundle"], "bundle has no weights for training (a bundle has none)"),
        (["--teacher", "{tmp}/nowhere"], "{tmp}/nowhere is not a folder"),
        (["--teacher", "{tmp}/bare"], "bare lacks weights"),
        (["--teacher", "{tmp}/cut"], "transformers cannot open the teacher {tmp}/cut: Error while deserializing"),
        (["--teacher", "{tmp}/wordless"], "wordless: it has no tokenizer.json, and no other file of one"),
        (["--teacher", "{tmp}/mixed"], "mixed has 4 token embeddings, and its tokenizer gives the token "),
        (["--teacher-scores", "{tmp}/nowhere.csv"], "cannot read {tmp}/nowhere.csv"),
        (["--teacher-scores", "{tmp}/scored"], "there is no {tmp}/scored: wanted a file of scores, or an output"),
        (["--teacher-scores", "{tmp}/scores.txt"], "ends in '.txt': wanted .csv"),
        (["--texts", "{texts}"], "--texts needs a teacher: give --teacher FOLDER or --teacher-scores FILE"),
        (["--teacher-weight", "0.3"], "--teacher-weight needs a teacher"),
        (["--weak-teacher"], "--weak-teacher needs a teacher"),
        (["--nearest", "5"], "--nearest needs a teacher"),
        (["--teacher", "{single}", "--nearest", "5"], "--nearest takes lines of --texts FILE"),
        (["--teacher", "{single}", "--texts", "{texts}", "--nearest", "0"], "--nearest is 0: wanted 1 line or more"),
        (["--teacher", "{single}", "--teacher-logits"], "--teacher-logits says what --teacher-scores FILE holds"),
        (["--teacher", "{single}", "--teacher-weight", "0"], "teacher_weight"),
        (["--teacher", "{single}", "--teacher-temperature", "1e30"], "teacher_temperature"),
        (["--teacher", "{single}", "--texts", "{tmp}"], "{tmp} is a folder: wanted one file of rows"),
        (["--teacher", "{single}", "--texts", "{train}"], "are labelled rows as well"),
    ],
)  # fmt: skip
def test_bad_teachers_are_one_sentence(given, student, tmp_path, arguments, message):
    make_tiny_checkpoint(tmp_path / "two")
    make_tiny_family(tmp_path / "three", "bert")
    make_tiny_checkpoint(tmp_path / "bare", labels=3)
    bare = AutoModelForSequenceClassification.from_pretrained(tmp_path / "bare", num_labels=3)
    bare.bert.save_pretrained(tmp_path / "bare")
    write_tokenizer(tmp_path / "bare")
    for name in ("cut", "wordless", "mixed"):
        make_tiny_checkpoint(tmp_path / name, labels=3)
    (tmp_path / "cut" / "model.safetensors").write_bytes(b"\xff" * 100)
    (tmp_path / "wordless" / "tokenizer.json").unlink()
    few = AutoModelForSequenceClassification.from_pretrained(tmp_path / "mixed")
    few.resize_token_embeddings(4)
    few.save_pretrained(tmp_path / "mixed")
    shutil.copytree(
        given.teachers["single"].path, tmp_path / "bundle", ignore=shutil.ignore_patterns("*.safetensors")
    )
    places = {kind: given.teachers[kind].path for kind in KINDS} | {
        "tmp": tmp_path, "texts": given.path("texts"), "train": given.path("train"),
    }  # fmt: skip
    code, line, err = student(*(argument.format(**places) for argument in arguments))
    assert (code, line) == (2, None)
    assert message.format(**places) in err.splitlines()[-1]
    assert "Traceback" not in err
