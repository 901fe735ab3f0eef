"""DeBERTa as a graph: shared and own projections, every position score; whole and cut, alone and in a batch."""

import numpy as np
import pytest
import torch
from cutting import cut_units
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

OWN = {"share_att_key": False, "norm_rel_ebd": "none"}
VARIANTS = [
    {},
    OWN | {"position_biased_input": True, "type_vocab_size": 2},
    {"pos_att_type": ["c2p"], "type_vocab_size": 2},
    OWN | {"pos_att_type": ["p2c"], "position_buckets": -1, "max_relative_positions": 5},
    {"pos_att_type": [], "pooler_hidden_act": "relu"},
    {"relative_attention": False, "pos_att_type": None, "position_biased_input": True, "num_hidden_layers": 1},
]
CUT = ([np.array([0, 3]), np.array([1])], [np.arange(0, 96, 2), np.array([], dtype=int)])


def batches(folder, pair=False) -> list[TokenBatch]:
    """One batch with rows of very different lengths, and each row alone; one has the special tokens only."""
    tokenizer, rows = Tokenizer.open(folder, 48), tiny_texts(9, pair).rows
    rows[3], rows[4] = tuple(" ".join([text] * 9) for text in rows[3]), tuple("" for _ in rows[4])
    return [tokenizer.batch(some) for some in (rows, *([row] for row in rows))]


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("pair", [False, True])
@torch.no_grad()
def test_the_graph_equals_transformers_alone_and_in_a_batch(tmp_path, changes, pair):
    theirs = make_tiny_family(tmp_path, "deberta-v2", **changes)
    model, path = load_checkpoint(tmp_path), tmp_path / "fp32.onnx"
    to_onnx(model, path, pair)
    check_fused(path, model.architecture, Precision.all_fp32(model.architecture), static=False)
    session, answers = open_session(path), []
    typed = pair and changes.get("type_vocab_size", 0) > 1
    assert ("token_type_ids" in {node.name for node in session.get_inputs()}) == typed
    for batch in batches(tmp_path, pair):
        ours = TensorBatch(batch)
        types = {"token_type_ids": ours.types} if typed else {}
        answers.append(run_session(session, batch))
        assert np.abs(answers[-1] - theirs(ours.ids, attention_mask=ours.mask, **types).logits.numpy()).max() < 1e-4
    assert batches(tmp_path, pair)[0].ids.shape[1] == 48  # as many tokens as there are positions
    assert np.abs(answers[0] - np.concatenate(answers[1:])).max() < 1e-5


@pytest.mark.parametrize("changes", VARIANTS[:4])
@torch.no_grad()
def test_a_cut_model_as_fp32_dynamic_int8_and_fp16(tmp_path, changes):
    make_tiny_family(tmp_path, "deberta-v2", **changes)
    model = cut_units(load_checkpoint(tmp_path), *CUT)
    precision = Precision.all_int8(model.architecture)
    to_onnx(model, tmp_path / "fp32.onnx", pair=False)
    write_int8(model, tmp_path / "int8.onnx", False, None, precision)
    check_fused(tmp_path / "int8.onnx", model.architecture, precision, static=False)
    write_fp16(model, tmp_path / "fp16.onnx", pair=False)
    check_half(tmp_path / "fp16.onnx", model.architecture)
    sessions = {
        1e-4: open_session(tmp_path / "fp32.onnx"), 0.05: open_session(tmp_path / "fp16.onnx"),
        0.3: open_session(tmp_path / "int8.onnx", variant=int8_variant("dynamic")),
    }  # fmt: skip
    for batch in batches(tmp_path):
        wanted = model(TensorBatch(batch))[0].numpy()
        for tolerance, session in sessions.items():
            assert np.abs(run_session(session, batch) - wanted).max() < tolerance
