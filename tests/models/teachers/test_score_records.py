"""What `prunella score --scores` writes is a file of a teacher's scores, in each of its formats."""

import json

import numpy as np
import pytest
from verbs import run

from models.data.columns import Columns
from models.errors import InputError
from models.task import Task
from models.teachers.score_records import score_records
from models.teachers.scores_file import read_scores
from prunella import Classifier
from service.model.bundle import Bundle

pytest_plugins = ["serving"]  # the fixture tiny_bundle
TEXTS = ["good film", "bad film", "a good day", "café ☕", ' a "quoted", text ']


def scored(bundle, tmp_path, capsys, monkeypatch, form, *flags):
    (tmp_path / "in.jsonl").write_text(
        "\n".join(json.dumps({"id": i, "text": text}) for i, text in enumerate([*TEXTS, ""])), encoding="utf-8"
    )
    code, _, err = run(
        capsys, monkeypatch, "score", bundle, tmp_path / "in.jsonl", tmp_path / "out", "--format", form,
        "--processes", 1, "--chunk-rows", 4, *flags,
    )  # fmt: skip
    assert code == 0, err
    return tmp_path / "out"


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_the_scores_of_each_text_are_read_and_a_row_with_an_error_is_not(
    tiny_bundle, tmp_path, capsys, monkeypatch, form
):
    out = scored(tiny_bundle, tmp_path, capsys, monkeypatch, form, "--scores")
    task: Task = Bundle.open(tiny_bundle).task
    index, logits = read_scores(out, task, Columns(), are_logits=False, numbered=())
    assert list(index) == [(text,) for text in TEXTS]  # of both parts; the empty text has an error
    wanted = [[one.scores[label] for label in task.labels] for one in Classifier(tiny_bundle)(TEXTS)]
    np.testing.assert_allclose(np.exp(logits), wanted, rtol=1e-6)


def test_an_output_without_scores_or_without_its_end_is_refused(tiny_bundle, tmp_path, capsys, monkeypatch):
    out = scored(tiny_bundle, tmp_path, capsys, monkeypatch, "jsonl")
    with pytest.raises(InputError, match=r"the row has no 'scores': give `prunella score` the flag --scores"):
        list(score_records(out, Columns()))
    (out / "_SUCCESS").unlink()
    with pytest.raises(InputError, match="wanted a file, or a finished output of `prunella score --scores`"):
        list(score_records(out, Columns()))


def test_added_columns_may_have_a_prefix(tmp_path):
    path = tmp_path / "scores.jsonl"
    scores = [{"label": "no", "score": 0.25}, {"label": "yes", "score": 0.75}]
    path.write_text(json.dumps({"text": "a", "m_label": "yes", "m_scores": scores, "m_error": None, "m_bundle": "b"}))
    assert [record for _, record in score_records(path, Columns())] == [{"text": "a", "no": 0.25, "yes": 0.75}]


def test_scores_that_are_no_list_of_labels_are_named(tmp_path):
    path = tmp_path / "scores.jsonl"
    path.write_text(json.dumps({"text": "a", "scores": [0.5], "error": None, "bundle": "b"}))
    with pytest.raises(InputError, match=r"line 1: 'scores' holds '\[0.5\]', wanted labels with their scores"):
        list(score_records(path, Columns()))
