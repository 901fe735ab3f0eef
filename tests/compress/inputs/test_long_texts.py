"""`--windows` of compress: the full model is judged with windows, and the task that the bundle gets names them."""

import json

import numpy as np
import pytest
from tiny import make_tiny_checkpoint

from bench.measure.accuracy.evaluate import classifier_logits
from compress.inputs.read import Files, LongTexts, read_inputs
from models.errors import InputError
from models.task import Task
from models.tokenizer import Tokenizer
from service.model.windows import TextWindows, combine_logits

LONG = " ".join(["awful dull plot good warm music"] * 8)


@pytest.fixture
def files(tmp_path):
    make_tiny_checkpoint(tmp_path / "hub")
    rows = [{"text": f"{LONG} {i}", "label": f"LABEL_{i % 2}"} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Files(str(tmp_path / "rows.jsonl"), validation=str(tmp_path / "rows.jsonl"))


def source_of(tmp_path, files, long_texts):
    return read_inputs(tmp_path / "hub", files, tmp_path / "store", long_texts, 0).source


def test_the_task_names_the_windows_and_the_full_model_answers_with_them(tmp_path, files):
    folder = source_of(tmp_path, files, LongTexts(max_tokens=16, windows=3, combine="max"))
    task = Task.read(folder.path / "task.json")
    assert (task.max_tokens, task.windows, task.windows_combine) == (16, 3, "max")
    tokenizer = Tokenizer.open(folder.path, 16)
    cutting = TextWindows(task, tokenizer.affixes, 3, "max")
    parts = cutting.cut(Tokenizer.open(folder.path, cutting.max_tokens).encode([(LONG,)])[0])
    assert len(parts) == 3
    plain = task.model_copy(update={"windows": None})
    rows = [(tokenizer.decode(part.ids[1:-1]),) for part in parts]
    windows = classifier_logits(folder.path, rows, plain)
    wanted = combine_logits(windows.astype(np.float64), task, "max")
    np.testing.assert_allclose(classifier_logits(folder.path, [(LONG,)], task)[0], wanted, atol=1e-4)
    assert not np.allclose(classifier_logits(folder.path, [(LONG,)], plain)[0], wanted, atol=1e-4)


def test_without_the_option_the_source_is_the_same_and_one_window_is_none(tmp_path, files):
    plain = source_of(tmp_path, files, None)
    assert "windows" not in json.loads((plain.path / "task.json").read_text())
    one = source_of(tmp_path, files, LongTexts(windows=1))
    assert Task.read(one.path / "task.json").windows is None


def test_windows_of_pairs_are_refused(tmp_path, files):
    rows = [{"text": "good", "text_pair": "film", "label": f"LABEL_{i % 2}"} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="--windows is for single texts"):
        source_of(tmp_path, files, LongTexts(windows=2))
