"""The heads of SetFit folders: forms of files, strategies for several labels, and what is refused."""

import numpy as np
import pytest
import torch
from embedding_folders import ROWS, embed, fit, make_body, save_head, scores_here, write_json, write_numbers
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from verbs import run

from compress.inputs.source import open_source, source_kind
from models.errors import InputError
from models.forms.linear_head import CONVERT, CONVERT_TORCH, read_linear_head
from models.task import Task


@pytest.mark.parametrize(
    ("classes", "labels", "expected"),
    [
        ([0, 1, 2], ["x", "y", "z"], ("x", "y", "z")), ([0, 1, 2], None, ("0", "1", "2")),
        (["b", "a"], None, ("a", "b")), ([2, 0], ["x", "y", "z"], ("x", "z")), (["a", "b"], ["b", "a"], ("a", "b")),
    ],
)  # fmt: skip
def test_labels_are_those_of_the_config_or_the_classes(tmp_path, classes, labels, expected):
    body = make_body(tmp_path)
    write_json(tmp_path / "config_setfit.json", {"labels": labels, "normalize_embeddings": False})
    embeddings = embed(tmp_path, body)
    head = fit(embeddings, classes)
    save_head(tmp_path, head)
    assert read_linear_head(tmp_path).labels == expected
    task = Task(labels=expected, max_tokens=40)
    np.testing.assert_allclose(scores_here(tmp_path, task), head.predict_proba(embeddings), atol=1e-4)


def test_several_labels_of_a_text(tmp_path):
    body = make_body(tmp_path)
    write_json(tmp_path / "config_setfit.json", {"labels": ["x", "y", "z"], "normalize_embeddings": True})
    embeddings = embed(tmp_path, body, normalize=True)
    truth = np.random.default_rng(0).integers(0, 2, (len(ROWS), 3))
    head = OneVsRestClassifier(LogisticRegression(C=10)).fit(embeddings, truth)
    save_head(tmp_path, head)
    assert source_kind(tmp_path) == "multi"
    task = Task(kind="multi", labels=("x", "y", "z"), max_tokens=40)
    np.testing.assert_allclose(scores_here(tmp_path, task), head.predict_proba(embeddings), atol=1e-4)


@pytest.mark.parametrize("classes", [[0, 1], [0, 1, 2]])
@pytest.mark.parametrize("form", ["onnx", "skops"])
def test_heads_in_other_forms(tmp_path, form, classes):
    body = make_body(tmp_path)
    embeddings = embed(tmp_path, body).astype(np.float32)
    head = fit(embeddings, classes)
    if form == "onnx":
        to_skl = pytest.importorskip("skl2onnx").to_onnx
        (tmp_path / "model_head.onnx").write_bytes(to_skl(head, embeddings[:1]).SerializeToString())
    else:
        pytest.importorskip("skops.io").dump(head, tmp_path / "model_head.skops")
    task = Task(labels=tuple(map(str, classes)), max_tokens=40)
    np.testing.assert_allclose(scores_here(tmp_path, task), head.predict_proba(embeddings), atol=1e-4)
    assert source_kind(tmp_path) == "single"


def test_a_skops_file_with_other_types_is_refused(tmp_path):
    io = pytest.importorskip("skops.io")
    make_body(tmp_path)
    io.dump(Payload(), tmp_path / "model_head.skops")
    with pytest.raises(InputError, match=r"types that are not trusted: .*Payload"):
        open_source(tmp_path, tmp_path / "store")


class Payload:
    """Stands for a class whose code would run."""


def test_a_pickle_is_refused_with_the_lines_that_convert_it(tmp_path, capsys, monkeypatch):
    make_body(tmp_path / "in")
    write_json(tmp_path / "in" / "config_setfit.json", {"labels": ["a", "b"]})
    (tmp_path / "in" / "model_head.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    code, _, err = run(capsys, monkeypatch, "export", tmp_path / "in", "--store", tmp_path / "store")
    assert code != 0
    assert all(line in err for line in CONVERT)
    assert not (tmp_path / "ran").exists()
    code, facts, _ = run(capsys, monkeypatch, "inspect", tmp_path / "in")
    assert any(CONVERT[0] in problem["problem"] for problem in facts["problems"])
    assert (facts["kind"], facts["pooling"], facts["can"]) == ("SetFit folder", "mean", [])


def embeddings_of(folder):
    return embed(folder, make_body(folder)).astype(np.float32)


def several(columns=3):
    return np.random.default_rng(0).integers(0, 2, (len(ROWS), columns))


def dump(folder, head, form):
    if form == "safetensors":
        save_head(folder, head)
    else:
        pytest.importorskip("skops.io").dump(head, folder / "model_head.skops")


@pytest.mark.parametrize("form", ["safetensors", "skops"])
def test_a_one_vs_rest_head_of_one_label_is_refused(tmp_path, form):
    """Its probabilities are those of several regressions, divided by their sum: no function of single logits."""
    embeddings = embeddings_of(tmp_path)
    dump(tmp_path, OneVsRestClassifier(LogisticRegression()).fit(embeddings, np.resize([0, 1, 2], len(ROWS))), form)
    with pytest.raises(InputError, match=r"one logistic score for each of 3 labels \(one-vs-rest\)"):
        open_source(tmp_path, tmp_path / "store")


@pytest.mark.parametrize("form", ["safetensors", "skops"])
def test_a_one_vs_rest_head_of_two_labels_is_a_binary_regression(tmp_path, form):
    embeddings = embeddings_of(tmp_path)
    head = OneVsRestClassifier(LogisticRegression(C=10)).fit(embeddings, np.resize([0, 1], len(ROWS)))
    dump(tmp_path, head, form)
    task = Task(labels=("0", "1"), max_tokens=40)
    assert source_kind(tmp_path) == "single"
    np.testing.assert_allclose(scores_here(tmp_path, task), head.predict_proba(embeddings), atol=1e-4)


@pytest.mark.parametrize("form", ["safetensors", "skops"])
def test_one_regression_for_each_output(tmp_path, form):
    embeddings = embeddings_of(tmp_path)
    head = MultiOutputClassifier(LogisticRegression(C=10)).fit(embeddings, several())
    dump(tmp_path, head, form)
    assert source_kind(tmp_path) == "multi"
    task = Task.read(open_source(tmp_path, tmp_path / "store", max_tokens=40).path / "task.json")
    assert task.labels == ("0", "1", "2")
    expected = np.stack([one[:, 1] for one in head.predict_proba(embeddings)], axis=1)
    np.testing.assert_allclose(scores_here(tmp_path, task), expected, atol=1e-4)


def test_a_label_that_no_training_text_had_is_refused(tmp_path):
    embeddings, truth = embeddings_of(tmp_path), several()
    truth[:, 2] = 0
    dump(tmp_path, OneVsRestClassifier(LogisticRegression()).fit(embeddings, truth), "skops")
    with pytest.raises(InputError, match=r"of _ConstantPredictor.*a label that no training text had|not trusted"):
        open_source(tmp_path, tmp_path / "store")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"parts": '["LinearSVC"]', "type": "OneVsRestClassifier"}, "OneVsRestClassifier of LinearSVC: supported"),
        ({"rule": '["ovr", "lbfgs"]'}, "one-vs-rest"), ({"rule": '["auto", "liblinear"]'}, "one-vs-rest"),
        ({"type": "MultiOutputClassifier", "classes": "[[0, 1], [0, 1, 2], [0, 1]]"}, r"the labels \[0, 1, 2\]"),
    ],
)  # fmt: skip
def test_heads_that_are_no_linear_layer_are_refused(tmp_path, metadata, message):
    make_body(tmp_path)
    write_numbers(tmp_path, np.ones((3, 64)), np.ones(3), **{"classes": "[0, 1, 2]"} | metadata)
    with pytest.raises(InputError, match=message):
        open_source(tmp_path, tmp_path / "store")


def test_the_lines_for_setfits_head_in_torch(tmp_path, capsys, monkeypatch):
    """The pickle is searched for the name of the class, and not read."""
    make_body(tmp_path / "in")
    write_json(tmp_path / "in" / "config_setfit.json", {"labels": ["a", "b"]})
    (tmp_path / "in" / "model_head.pkl").write_bytes(b"csetfit.modeling\nSetFitHead\n(S'touch ran'\ntR.")
    code, _, err = run(capsys, monkeypatch, "export", tmp_path / "in", "--store", tmp_path / "store")
    assert code == 2
    assert all(line in err for line in CONVERT_TORCH)


@pytest.mark.parametrize("multitarget", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_setfits_head_in_torch_answers_as_its_conversion(tmp_path, monkeypatch, multitarget, bias):
    import joblib

    body = make_body(tmp_path)
    write_json(tmp_path / "config_setfit.json", {"labels": ["a", "b", "c"]})
    head = SetFitHead(multitarget, bias)
    monkeypatch.setattr(joblib, "load", lambda _: head)
    monkeypatch.chdir(tmp_path)
    exec("\n".join(CONVERT_TORCH), {})
    with torch.no_grad():
        expected = head(torch.from_numpy(embed(tmp_path, body)).float()).numpy()
    task = Task.read(open_source(tmp_path, tmp_path / "store", max_tokens=40).path / "task.json")
    assert task.kind == ("multi" if multitarget else "single")
    np.testing.assert_allclose(scores_here(tmp_path, task), expected, atol=1e-4)


class SetFitHead(torch.nn.Module):
    """What setfit's class of this name computes, with a temperature that is not 1."""

    def __init__(self, multitarget, bias):
        super().__init__()
        self.linear, self.temperature, self.eps = torch.nn.Linear(64, 3, bias=bias), 0.7, 1e-5
        self.multitarget, self.bias = multitarget, bias

    def forward(self, embeddings):
        logits = self.linear(embeddings) / (self.temperature + self.eps)
        return torch.sigmoid(logits) if self.multitarget else torch.softmax(logits, dim=-1)
