"""The cost of int8 that torch computes, against ONNX Runtime's int8 operators."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TINY_FAMILIES, make_tiny_family, tiny_texts

from compress.inputs.length_matching import pad_texts
from compress.quantization.calibration import calibrate
from compress.quantization.int8_loss import in_int8, measure_int8_loss, with_rounded_table
from compress.quantization.quantize import int8_variant
from compress.quantization.replaced_sublayer import answer_from, at_each_sublayer
from export.graph_precision import Precision
from export.writer import write_int8
from models.checkpoint import load_checkpoint
from models.classifier import Classifier, TensorBatch
from models.sublayer import SublayerId
from models.tokenizer import TokenBatch, Tokenizer
from models.train.divergence import divergence
from service.model.engine import run_session
from service.model.session import open_session

each_family = pytest.mark.parametrize("family", TINY_FAMILIES)


def model_and_texts(folder: Path, family: str) -> tuple[Classifier, list[TokenBatch]]:
    make_tiny_family(folder, family)
    tokenizer = Tokenizer.open(folder, 32)
    encoded = tokenizer.encode(tiny_texts(64).rows)
    # with a token table that the graph holds exactly, only the sublayer is rounded
    return with_rounded_table(load_checkpoint(folder), 4), pad_texts(encoded, range(64), tokenizer)


@each_family
def test_a_sublayer_in_int8_answers_as_in_onnx_runtime(family: str, tmp_path: Path):
    model, batches = model_and_texts(tmp_path, family)
    scales, path = calibrate(model, batches), tmp_path / "model.onnx"
    fp32 = Precision.all_fp32(model.architecture).model_copy(update={"embedding_bits": 4})
    with torch.no_grad():
        exact = torch.cat([model(TensorBatch(batch))[0] for batch in batches]).numpy()
    for sublayer in SublayerId.all_of(len(model.architecture.layers)):
        write_int8(model, path, False, scales, fp32.replaced(*sublayer, "int8"))
        session = open_session(path, variant=int8_variant())
        wanted = np.concatenate([run_session(session, batch) for batch in batches]) - exact
        module = in_int8(model, sublayer, scales)
        replaced = with_module(model, sublayer, module)
        with torch.no_grad():
            found = torch.cat([replaced(TensorBatch(batch))[0] for batch in batches]).numpy() - exact
        assert np.abs(wanted).max() > 1e-4, "int8 changes nothing: the comparison would compare nothing"
        # a DeBERTa's graph rounds the constants of relative positions too
        limit = 0.5 if family == "deberta-v2" and sublayer.part == "attention" else 0.1
        assert np.linalg.norm(found - wanted) < limit * np.linalg.norm(wanted), sublayer.key


@each_family
def test_a_replaced_sublayer_costs_what_the_whole_model_with_it_loses(family: str, tmp_path: Path):
    model, batches = model_and_texts(tmp_path, family)
    texts, scales = [TensorBatch(batch) for batch in batches], calibrate(model, batches)
    keys = []
    for key, divergence_with in at_each_sublayer(model, texts, "single"):
        sublayer = SublayerId.parse(key)
        module = in_int8(model, sublayer, scales)
        whole, total = with_module(model, sublayer, module), 0.0
        with torch.no_grad():
            for batch in texts:
                total += float(divergence("single", whole(batch)[0], model(batch)[0]).sum())
        assert divergence_with(module) == pytest.approx(total / 64, rel=1e-2, abs=1e-7)
        assert divergence_with(model.get_submodule(sublayer.module)) == pytest.approx(0.0, abs=1e-6)
        keys.append(key)
    assert keys == SublayerId.keys(len(model.architecture.layers))


def test_the_answer_needs_no_other_token_than_the_head_reads(tmp_path: Path):
    model, batches = model_and_texts(tmp_path, "bert")
    batch, last = TensorBatch(batches[0]), SublayerId(1, "ffn")
    with torch.no_grad():
        inputs: list[torch.Tensor] = []
        module = model.get_submodule(last.module)
        handle = module.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
        wanted = model(batch)[0]
        found = answer_from(model, last, inputs[0], batch, module)
        handle.remove()
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert inputs[1].shape[1] == 1


def test_every_sublayer_has_a_cost_of_int8(tmp_path: Path):
    model, batches = model_and_texts(tmp_path, "bert")
    losses = measure_int8_loss(model, batches, batches, "single")
    assert list(losses) == SublayerId.keys(2)
    assert all(loss >= 0 for loss in losses.values())
    assert max(losses.values()) > 0


def with_module(model: Classifier, sublayer: SublayerId, module: torch.nn.Module) -> Classifier:
    """Return a copy of the model with another module as its `sublayer`."""
    result = copy.deepcopy(model)
    setattr(result.encoder.layers[sublayer.layer], sublayer.part, module)
    return result
