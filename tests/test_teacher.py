"""The teacher's answers: those of the model itself, whatever kills there were on the way."""

import numpy as np
import pytest
import torch
from tiny import make_tiny_checkpoint, tiny_texts

from compress import teacher as module
from compress.teacher import Teacher, teach
from models.checkpoint import load_checkpoint
from models.classifier import TensorBatch
from models.tokens import Tokenizer

LAYERS = [0, 1]


class Killed(BaseException):
    """As by kill -9: nothing is tidied up."""


@pytest.fixture
def subject(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "KEEP_EVERY", 2)
    make_tiny_checkpoint(tmp_path / "model")
    tokenizer = Tokenizer.open(tmp_path / "model", 32)
    return load_checkpoint(tmp_path / "model"), tokenizer.encode(tiny_texts(300).rows), tokenizer


def target_of(tmp_path):
    target = tmp_path / "teach-1.partial"
    target.mkdir()
    return target


def check(folder, subject):
    model, encoded, tokenizer = subject
    found = Teacher.open(folder, encoded)
    for row in (0, 1, 150, 299):
        batch = TensorBatch(tokenizer.pad([encoded[row]]))
        with torch.no_grad():
            logits, states = model(batch)
        np.testing.assert_allclose(found.logits[row], logits[0], atol=1e-5)
        kept = found.states([row], batch.ids.shape[1])
        np.testing.assert_allclose(kept[:, 0], torch.stack([states[i][0] for i in LAYERS]), atol=5e-3)  # float16


def test_answers_are_the_models(tmp_path, subject):
    target = target_of(tmp_path)
    teach(*subject, LAYERS, target)
    check(target, subject)


def test_a_kill_between_batches_loses_no_text_and_little_work(tmp_path, subject, monkeypatch):
    model = subject[0]
    forward, calls = type(model).forward, []

    def counting(self, *given):
        calls.append(1)
        if len(calls) == 8:
            raise Killed
        return forward(self, *given)

    monkeypatch.setattr(type(model), "forward", counting)
    target = target_of(tmp_path)
    with pytest.raises(Killed):
        teach(*subject, LAYERS, target)
    calls.clear()
    calls.extend([1] * 8)
    teach(*subject, LAYERS, target)
    assert len(calls) - 8 == 10 - 6  # ten batches, of which six were noted
    monkeypatch.undo()
    check(target, subject)


@pytest.mark.parametrize("moved", [0, 1])
def test_a_kill_while_the_answers_are_handed_over_makes_them_anew(tmp_path, subject, monkeypatch, moved):
    move, moves = module.shutil.move, []

    def killing(*given):
        if len(moves) == moved:
            raise Killed
        moves.append(move(*given))

    monkeypatch.setattr(module.shutil, "move", killing)
    target = target_of(tmp_path)
    with pytest.raises(Killed):
        teach(*subject, LAYERS, target)
    monkeypatch.setattr(module.shutil, "move", move)
    for left in target.iterdir():  # as run_stage clears what was not finished
        left.unlink()
    teach(*subject, LAYERS, target)
    check(target, subject)
