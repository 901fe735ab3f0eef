"""Teachers and the labels of the training rows: which label is which, and whether the answers agree."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from teaching import LABELS
from tiny import make_tiny_family

from models.checkpoint import load_checkpoint
from models.data.texts import Texts
from models.errors import InputError
from models.task import Task
from models.teachers.matching import check_agreement, match_labels


def test_labels_in_another_order_are_matched_by_name(given, student, tmp_path):
    """The teacher as transformers reads it, with its outputs in reverse order: the student is the same."""
    own, foreign = given.teachers["single"].path, tmp_path / "foreign"
    foreign.mkdir()
    shutil.copyfile(own / "tokenizer.json", foreign / "tokenizer.json")
    tensors = load_file(own / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name].flip(0).contiguous()
    save_file(tensors, foreign / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((own / "config.json").read_text())
    names = LABELS[::-1]
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    (foreign / "config.json").write_text(json.dumps(config))
    lines = [student("--teacher", folder)[1] for folder in (own, foreign)]
    first, second = (load_checkpoint(Path(line["folder"])).state_dict() for line in lines)
    assert all(torch.allclose(first[name], second[name], atol=1e-3) for name in first)
    assert lines[0]["teachers"][0]["accuracy"] == lines[1]["teachers"][0]["accuracy"]


def test_labels_without_names_are_taken_by_position_and_said(given, student, tmp_path):
    make_tiny_family(tmp_path / "foreign", "bert")
    code, _, err = student("--teacher", tmp_path / "foreign", "--weak-teacher")
    assert code == 0, err
    assert "names its labels LABEL_0 to LABEL_2: they are taken for mixed, negative, positive" in err
    assert "WARNING: the teacher" in err


def test_a_teacher_is_compared_with_labels_before_it_answers_the_other_texts(given, student, tmp_path):
    make_tiny_family(tmp_path / "random", "bert")
    code, _, err = student("--teacher", tmp_path / "random", "--texts", given.path("texts"), store=tmp_path)
    assert code == 2
    assert "agrees with" in err
    labelled = {*given.rows("train").rows, *given.rows("validation").rows}
    answered = [line for line in err.splitlines() if f"answers of {tmp_path / 'random'} to" in line]
    assert [line.split(" texts ")[0].split()[-1] for line in answered] == [str(len(labelled))]


def test_names_that_differ_in_case_are_the_same_labels_and_it_is_said(capsys):
    task = Task(labels=("negative", "positive"))
    assert match_labels("a", ["POSITIVE", "NEGATIVE"], task) == [1, 0]
    assert "writes its labels POSITIVE, NEGATIVE" in capsys.readouterr().err
    nameless = Task(labels=("LABEL_0", "LABEL_1"))
    assert match_labels("a", ["no", "yes"], nameless, "the model m") == [0, 1]
    assert "beside the teacher a, the labels of the model m are LABEL_0 to LABEL_1: they are taken for no, yes" in (
        capsys.readouterr().err
    )


def test_numbered_labels_and_labels_with_spaces_are_matched_in_any_order(capsys):
    task = Task(labels=LABELS)
    assert match_labels("T", ("LABEL_2", "LABEL_0", "LABEL_1"), task) == [1, 2, 0]
    assert "taken for mixed, negative, positive, in this order" in capsys.readouterr().err
    assert match_labels("T", LABELS, Task(labels=("LABEL_2", "LABEL_0", "LABEL_1"))) == [2, 0, 1]
    assert match_labels("T", (" positive", "mixed ", "negative"), task) == [1, 2, 0]


def test_answers_that_are_only_by_chance_better_than_the_most_frequent_label_are_refused(capsys):
    draw = np.random.default_rng(0)
    rows, task = [(f"text {i}",) for i in range(200)], Task(labels=("no", "yes"))
    truth = np.array([i % 2 for i in range(200)])
    labelled = Texts(rows, [task.labels[i] for i in truth], "rows.csv")
    guesses = (draw.integers(0, 2, 200) for _ in range(100))
    answers = next(one for one in guesses if 0.5 < (one == truth).mean() < 0.54)
    with pytest.raises(InputError, match=r"agrees with 5\d\.\d% of the labels .* in random order are as good in"):
        check_agreement("T", task, labelled, np.eye(2)[answers], weak=False)
    better = np.where(draw.random(200) < 0.3, truth, answers)
    check_agreement("T", task, labelled, np.eye(2)[better], weak=False)
    assert "the teacher T agrees with" in capsys.readouterr().err
