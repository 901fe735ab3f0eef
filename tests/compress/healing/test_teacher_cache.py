"""The teacher's answers: those of the model itself in fp32, whatever the precision and the kills on the way."""

import os

import pytest
import torch
from tiny import make_tiny_checkpoint, tiny_texts

from compress.healing.teacher_cache import Teacher, teach
from models.checkpoint import load_checkpoint
from models.classifier import TensorBatch
from models.errors import CheckError
from models.teachers import answer_batches
from models.tokenizer import Tokenizer
from models.train.precision import AUTO

LAYERS = [0, 1]


class Killed(BaseException):
    """As by kill -9: nothing is tidied up."""


@pytest.fixture
def subject(tmp_path, monkeypatch):
    monkeypatch.setattr(answer_batches, "KEEP_EVERY", 2)
    make_tiny_checkpoint(tmp_path / "model")
    tokenizer = Tokenizer.open(tmp_path / "model", 32)
    return load_checkpoint(tmp_path / "model"), tokenizer.encode(tiny_texts(300).rows), tokenizer


def target_of(tmp_path):
    target = tmp_path / "teach-1.partial"
    target.mkdir()
    return target


def check(folder, subject):
    """Hold the answers against the bounds that the module states."""
    model, encoded, tokenizer = subject
    found = Teacher.open(folder, encoded)
    for row in (0, 1, 150, 299):
        batch = TensorBatch(tokenizer.pad([encoded[row]]))
        with torch.no_grad():
            logits, states = model(batch)
        assert (found.logits[row] - logits[0]).abs().max() < 1e-5 * found.logits.abs().max()
        wanted = torch.stack([states[i][0] for i in LAYERS])
        rounding = (wanted.abs() * 2**-11).clamp(min=2**-25)
        order = 1e-5 * wanted.abs().max()  # of sums
        error = (found.states([row], batch.ids.shape[1])[:, 0] - wanted).abs()
        assert (error <= rounding + order).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_answers_are_the_models_in_fp32_whatever_auto_is(tmp_path, subject, monkeypatch, precision):
    monkeypatch.setenv(AUTO, precision)
    target = target_of(tmp_path)
    teach(*subject, LAYERS, target)
    check(target, subject)


def test_states_beyond_float16_are_stored_as_its_largest_number_and_told(tmp_path, subject, capsys):
    model, encoded, _ = subject
    norm = model.encoder.layers[1].ffn.norm
    with torch.no_grad():
        norm.weight[:2], norm.bias[:2] = 0.0, torch.tensor([1e6, -1e6])
    target = target_of(tmp_path)
    teach(*subject, LAYERS, target)
    states = Teacher.open(target, encoded).states([0], len(encoded[0].ids))[1, 0]
    assert (states[:, 0] == 65504).all()
    assert (states[:, 1] == -65504).all()
    tokens = sum(len(e.ids) for e in encoded)
    said = capsys.readouterr().err
    assert f"{2 * tokens} values of the teacher's hidden states are beyond 65504" in said


@pytest.mark.parametrize("where", ["logits", "states"])
def test_an_answer_that_is_not_a_number_is_refused(tmp_path, subject, where):
    head = subject[0].head
    with torch.no_grad():
        (head.out if where == "logits" else subject[0].encoder.layers[1].ffn.norm).bias[0] = float("nan")
    with pytest.raises(CheckError, match="not a number"):
        teach(*subject, LAYERS, target_of(tmp_path))


def test_a_write_that_is_cut_short_is_finished(tmp_path, subject, monkeypatch):
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, place: whole(file, data[: max(1, len(data) // 2)], place))
    target = target_of(tmp_path)
    teach(*subject, LAYERS, target)
    check(target, subject)
