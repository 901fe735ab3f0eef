"""MPNet as a graph: the bias of relative positions, whole and cut, short and long texts, alone and in a batch."""

import numpy as np
import pytest
import torch
from cutting import cut_units
from tiny import make_tiny_family, tiny_texts

from compress.quantization.calibration import calibrate
from compress.quantization.quantize import int8_variant
from export.fused_operators import check_fused, check_half
from export.graph_precision import Precision
from export.writer import to_onnx, write_fp16, write_int8
from models.checkpoint import load_checkpoint
from models.classifier import TensorBatch
from models.tokenizer import Tokenizer
from service.model.engine import run_session
from service.model.session import open_session

ALL, NONE, NEURONS = np.arange(4), np.array([], dtype=int), np.arange(0, 96, 2)
CUTS = {
    "whole": None,
    "heads": ([np.array([1, 3]), np.array([0, 2, 3])], [NEURONS, NEURONS]),
    "no heads first": ([NONE, np.array([2])], [NEURONS, NONE]),
    "no heads last": ([np.array([2]), NONE], [NONE, NEURONS]),
    "no heads": ([NONE, NONE], [NEURONS, NEURONS]),
}


@pytest.fixture(params=CUTS)
def model(request, tmp_path):
    make_tiny_family(tmp_path, "mpnet", max_position_embeddings=302)
    model, kept = load_checkpoint(tmp_path), CUTS[request.param]
    return model if kept is None else cut_units(model, *kept)


def batches(folder):
    """One batch with rows of 300, 170 and few tokens, and each row alone."""
    words = " ".join(text for (text,) in tiny_texts(64).rows).split()
    tokenizer, rows = Tokenizer.open(folder, 300), [(" ".join(words[:n]),) for n in (298, 168, 7, 1, 0)]
    return [tokenizer.batch(some) for some in (rows, *([row] for row in rows))]


@torch.no_grad()
def test_the_graph_equals_torch_alone_and_in_a_batch(tmp_path, model):
    path, answers = tmp_path / "fp32.onnx", []
    to_onnx(model, path, pair=False)
    check_fused(path, model.architecture, Precision.all_fp32(model.architecture), static=False)
    session = open_session(path)
    assert {node.name for node in session.get_inputs()} == {"input_ids", "attention_mask"}
    for batch in batches(tmp_path):
        answers.append(run_session(session, batch))
        assert np.abs(answers[-1] - model(TensorBatch(batch))[0].numpy()).max() < 1e-4
    assert np.abs(answers[0] - np.concatenate(answers[1:])).max() < 1e-5


@torch.no_grad()
def test_int8_and_fp16_are_near(tmp_path, model):
    shape, texts = model.architecture, batches(tmp_path)
    precision, scales = Precision.all_int8(shape), calibrate(model, texts)
    write_int8(model, tmp_path / "dynamic.onnx", False, None, precision)
    write_int8(model, tmp_path / "static.onnx", False, scales, precision)
    write_fp16(model, tmp_path / "fp16.onnx", pair=False)
    check_fused(tmp_path / "dynamic.onnx", shape, precision, static=False)
    check_fused(tmp_path / "static.onnx", shape, precision, static=True)
    check_half(tmp_path / "fp16.onnx", shape)
    for recipe in ("dynamic", "static"):
        session = open_session(tmp_path / f"{recipe}.onnx", variant=int8_variant(recipe))
        for batch in texts:
            assert np.abs(run_session(session, batch) - model(TensorBatch(batch))[0].numpy()).max() < 0.3
    half = open_session(tmp_path / "fp16.onnx")
    for batch in texts:
        assert np.abs(run_session(half, batch) - model(TensorBatch(batch))[0].numpy()).max() < 0.05
