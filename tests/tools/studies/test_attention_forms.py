"""Every form that the study of MPNet's attention times gives the answers of torch."""

import numpy as np
import pytest
import torch
from cutting import cut_units
from tiny import make_tiny_family, tiny_texts

from export import writer
from models.checkpoint import load_checkpoint
from models.classifier import TensorBatch
from models.tokenizer import Tokenizer
from service.model.engine import run_session
from service.model.session import open_session
from tools.studies.attention_forms import FORMS


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_a_form_answers_as_torch_does(tmp_path, monkeypatch, form):
    make_tiny_family(tmp_path, "mpnet", num_hidden_layers=3)
    neurons = [np.arange(96)] * 3
    model = cut_units(load_checkpoint(tmp_path), [np.array([1, 3]), np.arange(4), np.array([0])], neurons)
    monkeypatch.setitem(writer.LAYERS, "mpnet", FORMS[form])
    writer.to_onnx(model, tmp_path / "fp32.onnx", pair=False)
    batch = Tokenizer.open(tmp_path, 40).batch([(text * 2,) for (text,) in tiny_texts(9).rows])
    answers = run_session(open_session(tmp_path / "fp32.onnx"), batch)
    assert np.abs(answers - model(TensorBatch(batch))[0].numpy()).max() < 1e-4
