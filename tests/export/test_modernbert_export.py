"""ModernBERT as a graph: rotary positions, windows, GeGLU, no biases; whole and cut, alone and in a batch."""

import numpy as np
import pytest
import torch
from tiny import make_tiny_family, tiny_texts

from compress.quantization.quantize import int8_variant
from export.fused_operators import check_fused, check_half
from export.graph_precision import Precision
from export.writer import to_onnx, write_fp16, write_int8
from models.checkpoint import load_checkpoint
from models.classifier import TensorBatch
from models.tokenizer import TokenBatch, Tokenizer
from service.model.engine import run_session
from service.model.session import open_session

BIASES = dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), True)
VARIANTS = [
    {},
    {"classifier_pooling": "mean"},
    {"classifier_pooling": "mean", **BIASES},
    {"global_attn_every_n_layers": 2, "local_rope_theta": 50.0, "global_rope_theta": 700.0, **BIASES},
    {"num_hidden_layers": 3},  # the last layer is a local one
    {"local_attention": 128},  # no text reaches beyond its window
    {"global_attn_every_n_layers": 1},
]


def batches(folder, pair=False) -> list[TokenBatch]:
    """One batch with rows of very different lengths, and each row alone."""
    tokenizer, rows = Tokenizer.open(folder, 40), tiny_texts(9, pair).rows
    rows[3] = tuple(" ".join([text] * 3) for text in rows[3])
    return [tokenizer.batch(some) for some in (rows, *([row] for row in rows))]


@pytest.mark.parametrize("changes", VARIANTS)
@torch.no_grad()
def test_the_graph_equals_transformers_alone_and_in_a_batch(tmp_path, changes):
    theirs = make_tiny_family(tmp_path, "modernbert", **changes)
    model, path = load_checkpoint(tmp_path), tmp_path / "fp32.onnx"
    to_onnx(model, path, pair=False)
    check_fused(path, model.architecture, Precision.all_fp32(model.architecture), static=False)
    session, answers = open_session(path), []
    assert {node.name for node in session.get_inputs()} == {"input_ids", "attention_mask"}
    for batch in batches(tmp_path):
        ours = TensorBatch(batch)
        answers.append(run_session(session, batch))
        assert np.abs(answers[-1] - theirs(ours.ids, attention_mask=ours.mask).logits.numpy()).max() < 1e-4
    assert np.abs(answers[0] - np.concatenate(answers[1:])).max() < 1e-5


@pytest.mark.parametrize("changes", VARIANTS[:4])
@torch.no_grad()
def test_dynamic_int8_and_fp16_are_near(tmp_path, changes):
    make_tiny_family(tmp_path, "modernbert", **changes)
    model, precision = load_checkpoint(tmp_path), Precision.all_int8(load_checkpoint(tmp_path).architecture)
    write_int8(model, tmp_path / "int8.onnx", True, None, precision)
    check_fused(tmp_path / "int8.onnx", model.architecture, precision, static=False)
    write_fp16(model, tmp_path / "fp16.onnx", pair=True)
    check_half(tmp_path / "fp16.onnx", model.architecture)
    int8, half = (
        open_session(tmp_path / "int8.onnx", variant=int8_variant("dynamic")),
        open_session(tmp_path / "fp16.onnx"),
    )
    for batch in batches(tmp_path, pair=True):
        wanted = model(TensorBatch(batch))[0].numpy()
        assert np.abs(run_session(int8, batch) - wanted).max() < 0.35
        assert np.abs(run_session(half, batch) - wanted).max() < 0.05
