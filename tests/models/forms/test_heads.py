"""Heads of Hugging Face folders: each answers as transformers does, and a task follows from head and config."""

import json

import numpy as np
import pytest
import torch
from tiny import TINY_FAMILIES, make_tiny_checkpoint, make_tiny_family, tiny_texts
from verbs import run

from bench.measure.accuracy.evaluate import evaluate
from compress.inputs.source import open_source, source_kind
from compress.make_bundle import BundleConfig, BundleTexts, make_bundle
from models.checkpoint import load_checkpoint
from models.classifier import TensorBatch
from models.data.texts import Texts
from models.errors import FolderError, InputError
from models.forms.head_task import read_head_task
from models.task import Task, sigmoid
from models.tokenizer import Tokenizer
from models.train.starting_point import load_source_id
from service.model.bundle import Bundle
from service.model.engine import Engine
from service.operations.model_slots import meaning
from service.protocols import Request, predictions
from tools.studies.folder_forms import change_config

SIGMOID = {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid", "version": "5.0"}}
OLD_SIGMOID = {"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"}
IDENTITY = {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}
MULTI, NUMBER = {"problem_type": "multi_label_classification"}, {"problem_type": "regression"}


@pytest.mark.parametrize("family", TINY_FAMILIES)
@pytest.mark.parametrize(
    ("outputs", "changes", "kind"),
    [(1, {}, "regression"), (1, NUMBER, "regression"), (3, MULTI, "multi"), (1, MULTI, "multi"), (3, {}, "single")],
)
def test_every_head_answers_as_transformers_does(tmp_path, family, outputs, changes, kind):
    theirs = make_tiny_family(tmp_path / "in", family, outputs, **changes)
    assert source_kind(tmp_path / "in") == kind
    opened = open_source(tmp_path / "in", tmp_path / "store", max_tokens=40)
    assert Task.read(opened.path / "task.json").kind == kind
    batch = TensorBatch(Tokenizer.open(opened.path, 40).batch(tiny_texts(9).rows))
    with torch.no_grad():
        expected = theirs(batch.ids, attention_mask=batch.mask).logits
        torch.testing.assert_close(load_checkpoint(opened.path)(batch)[0], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("outputs", "drop", "changes", "kind", "labels"),
    [
        (1, ["id2label", "label2id"], {}, "regression", ("LABEL_0",)),
        (1, [], {"id2label": {"0": "score"}}, "regression", ("score",)),
        (1, [], {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, "regression", ("LABEL_0",)),
        (1, ["id2label"], {"problem_type": "single_label_classification"}, "regression", ("LABEL_0",)),
        (2, ["id2label", "label2id"], {}, "single", ("LABEL_0", "LABEL_1")),
        (3, ["id2label", "label2id"], {}, "single", ("LABEL_0", "LABEL_1", "LABEL_2")),
        (2, [], {"id2label": {"1": "b", "0": "a"}} | MULTI, "multi", ("a", "b")),
    ],
)
def test_kind_and_labels_follow_from_head_and_config(tmp_path, outputs, drop, changes, kind, labels):
    make_tiny_checkpoint(tmp_path, outputs)
    change_config(tmp_path, drop, **changes)
    head = read_head_task(tmp_path)
    assert (head.kind, head.labels, head.activation) == (kind, labels, None)


@pytest.mark.parametrize(
    ("outputs", "changes", "message"),
    [
        (3, {"id2label": {"0": "a", "1": "b"}}, "names the labels 0, 1 in id2label, and the head has 3 outputs"),
        (2, {"id2label": {"1": "a", "2": "b"}}, "wanted names for 0 to 1"),
        (2, {"id2label": {"0": "a", "1": "a"}}, "two labels the same name"),
        (2, {"id2label": ["0", "1"]}, r"id2label = \['0', '1'\]: wanted an object such as"),
        (1, {"id2label": 2}, "id2label = 2: wanted an object such as"),
        (3, NUMBER, "answers with 3 numbers"),
        (2, {"problem_type": "ranking"}, "problem_type = 'ranking'"),
        (1, {"sentence_transformers": {"activation_fn": "torch.nn.Tanh"}}, "scores with torch.nn.Tanh: supported"),
        (3, SIGMOID, "several outputs and computes scores with .*Sigmoid: set problem_type"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, outputs, changes, message):
    make_tiny_checkpoint(tmp_path, outputs)
    change_config(tmp_path, **changes)
    with pytest.raises((FolderError, InputError), match=message):
        source_kind(tmp_path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (SIGMOID, "a score is the sigmoid of the output (activation_fn)"), (OLD_SIGMOID, "sigmoid of the output"),
        (IDENTITY, "a score is the output itself"), ({}, "a score is the output itself"),
    ],
)  # fmt: skip
def test_a_cross_encoder_says_what_its_score_is(tmp_path, capsys, changes, sentence):
    theirs = make_tiny_checkpoint(tmp_path / "in", 1)
    change_config(tmp_path / "in", **changes)
    opened = open_source(tmp_path / "in", tmp_path / "store", pair=True, max_tokens=40)
    assert sentence in capsys.readouterr().err
    task = Task.read(opened.path / "task.json")
    batch = Tokenizer.open(opened.path, 40).batch(tiny_texts(5, pair=True).rows)
    tensors = TensorBatch(batch)
    with torch.no_grad():
        logits = theirs(tensors.ids, attention_mask=tensors.mask, token_type_ids=tensors.types).logits.numpy()
    expected = 1 / (1 + np.exp(-logits)) if "Sigmoid" in str(changes) else logits
    np.testing.assert_allclose(task.scores(logits), expected, rtol=1e-5)
    served = predictions(task, logits, Request(rows=[], single=False))
    np.testing.assert_allclose([row[0]["score"] for row in served], expected[:, 0], rtol=1e-5)
    raw = predictions(task, logits, Request(rows=[], single=False, raw_scores=True))
    np.testing.assert_allclose([row[0]["score"] for row in raw], logits[:, 0], rtol=1e-6)


LATER = "config_sentence_transformers.json"  # of sentence-transformers 5.4 and later


def write_later(folder, **changes):
    (folder / LATER).write_text(json.dumps({"model_type": "CrossEncoder", "prompts": {}} | changes))
    modules = [{"idx": 0, "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}]
    (folder / "modules.json").write_text(json.dumps(modules))


@pytest.mark.parametrize(
    ("config", "later", "expected"),
    [
        ({}, "torch.nn.modules.activation.Sigmoid", "sigmoid"), ({}, "torch.nn.modules.linear.Identity", None),
        (IDENTITY, "torch.nn.modules.activation.Sigmoid", "sigmoid"), (SIGMOID, None, "sigmoid"), ({}, None, None),
        ({"sentence_transformers": "4.0"}, None, None),
    ],
)  # fmt: skip
def test_later_versions_name_the_function_in_another_file(tmp_path, config, later, expected):
    make_tiny_checkpoint(tmp_path / "in", 1)
    change_config(tmp_path / "in", **config)
    before = load_source_id(tmp_path / "in")
    write_later(tmp_path / "in", **({} if later is None else {"activation_fn": later}))
    assert read_head_task(tmp_path / "in").activation == expected
    assert load_source_id(tmp_path / "in") != before
    opened = open_source(tmp_path / "in", tmp_path / "store", pair=True, max_tokens=40)
    assert Task.read(opened.path / "task.json").activation == expected


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ({"activation_fn": "torch.nn.Tanh"}, f"with {LATER}, computes scores with torch.nn.Tanh"),
        ({"activation_fn": {"a": 1}}, "computes scores with {'a': 1}"),
        ({"default_prompt_name": "q", "prompts": {"q": "query: "}}, "the prompt 'q' before every text"),
    ],
)
def test_what_later_versions_say_of_a_cross_encoder_is_refused(tmp_path, later, message):
    make_tiny_checkpoint(tmp_path / "in", 1)
    write_later(tmp_path / "in", **later)
    with pytest.raises(InputError, match=message):
        open_source(tmp_path / "in", tmp_path / "store", pair=True)


def test_a_cross_encoder_of_several_modules_is_refused(tmp_path):
    make_tiny_checkpoint(tmp_path / "in", 1)
    write_later(tmp_path / "in")
    modules = json.loads((tmp_path / "in" / "modules.json").read_text())
    modules += [{"idx": 1, "path": "1_LogitScore", "type": "sentence_transformers.cross_encoder.modules.LogitScore"}]
    (tmp_path / "in" / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InputError, match="lists Transformer, LogitScore: of a cross-encoder only a Transformer"):
        open_source(tmp_path / "in", tmp_path / "store", pair=True)


def test_a_cross_encoder_is_quantized_and_evaluated_by_its_scores(tmp_path, capsys, monkeypatch):
    make_tiny_checkpoint(tmp_path / "in", 1)
    change_config(tmp_path / "in", **SIGMOID)
    opened = open_source(tmp_path / "in", tmp_path / "store", pair=True, max_tokens=40)
    pairs = tiny_texts(80, pair=True)
    rows = Texts(pairs.rows, [float(i % 2) for i in range(80)], "rows", "regression")
    made = make_bundle(opened, BundleTexts.of(rows), BundleConfig(recipe="static", max_loss=100), tmp_path / "store")
    bundle = Bundle.open(made.folder.path)
    assert bundle.task.activation == "sigmoid"
    plain = bundle.task.model_copy(update={"activation": None})
    assert meaning(bundle.task) != meaning(plain)  # a swap would change the meaning of the scores
    logits = Engine.open(bundle).logits(rows.rows[:4])
    score, expected = evaluate(made.folder.path, rows), sigmoid(logits)
    assert 0 < expected.min() < expected.max() < 1
    assert 0.2 < score.rmse < 0.8  # of scores, not of logits
    with (made.folder.path / "task.json").open() as file:
        assert json.load(file)["activation"] == "sigmoid"
    code, facts, _ = run(capsys, monkeypatch, "inspect", tmp_path / "in")
    assert code == 0
    assert (facts["task"], facts["score"], facts["problems"]) == ("regression", "sigmoid", [])


def test_tasks_without_an_activation_keep_their_identity():
    assert "activation" not in Task(kind="regression", labels=("value",)).model_dump()
    with pytest.raises(ValueError, match="one number"):
        Task(labels=("a", "b"), activation="sigmoid")
