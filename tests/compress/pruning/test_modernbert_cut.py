"""ModernBERT cut, refitted, quantized, compressed and answered: the same promises as for BERT."""

import json

import numpy as np
import pytest
import torch
from compressing import labelled_inputs
from cutting import cut_units
from tiny import make_tiny_family, tiny_texts

from compress.candidates import CandidateEvaluator
from compress.config import AnalysisConfig
from compress.inputs.source import open_source
from compress.make_bundle import BundleConfig, BundleTexts, make_bundle
from compress.pipeline import CompressConfig, compress_to, prepare
from compress.pruning.analysis import analyse
from compress.pruning.fisher import open_gates
from compress.pruning.refit import refit
from compress.pruning.surgery import choose_pruned_sublayers, cut
from compress.search.latency_table import measure_latency
from compress.search.search_to_target import Target
from export.fused_operators import check_fused
from export.graph_precision import Precision
from export.writer import to_onnx
from models.checkpoint import load_checkpoint, read_architecture, read_config, save_checkpoint
from models.classifier import Classifier, TensorBatch
from models.data.texts import Texts
from models.task import Task
from models.tokenizer import Tokenizer
from service.model.bundle import Bundle
from service.model.engine import Engine, run_session
from service.model.session import open_session
from tools.batch_invariance import largest_move

BIASES = dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), True)
VARIANTS = [{}, {"classifier_pooling": "mean"}, BIASES]
NONE = np.array([], dtype=int)
HEADS = [np.array([1, 3]), NONE, np.arange(4), np.array([2])]
NEURONS = [NONE, np.arange(0, 96, 2), np.arange(96), np.arange(5, 40)]
TASK = Task(labels=("a", "b", "c"), max_tokens=40)


@pytest.fixture(params=VARIANTS, ids=["plain", "mean", "biases"])
def made(request, tmp_path):
    make_tiny_family(tmp_path / "source", "modernbert", **request.param)
    tokenizer = Tokenizer.open(tmp_path / "source", 40)
    return load_checkpoint(tmp_path / "source"), tokenizer, tmp_path


@torch.no_grad()
def test_surgery_equals_the_masked_model(made):
    model, tokenizer, _ = made
    batch = TensorBatch(tokenizer.batch(tiny_texts(9).rows))
    gates = open_gates(model, 1)
    for gate, some in zip((*gates.heads, *gates.neurons), (*HEADS, *NEURONS), strict=True):
        gate.zero_()
        gate[:, torch.from_numpy(some).long()] = 1
    assert torch.allclose(cut_units(model, HEADS, NEURONS)(batch)[0], model(batch, gates)[0], atol=1e-5)


@torch.no_grad()
def test_a_cut_model_is_saved_loaded_and_exported(made):
    model, tokenizer, folder = made
    smaller = cut_units(model, HEADS, NEURONS)
    for name, parameter in smaller.named_parameters():  # as least squares and healing leave them
        if name.endswith(".bias"):
            parameter.normal_(std=0.2)
    (folder / "saved").mkdir()
    save_checkpoint(smaller, TASK, folder / "saved")
    assert read_config(folder / "saved")["model_type"] == "prunella-modernbert"
    again, path = load_checkpoint(folder / "saved"), folder / "cut.onnx"
    to_onnx(again, path, pair=False)
    check_fused(path, again.architecture, Precision.all_fp32(again.architecture), static=False)
    session, rows = open_session(path), tiny_texts(9).rows
    for some in (rows, *([row] for row in rows)):
        batch = tokenizer.batch(some)
        wanted = smaller(TensorBatch(batch))[0].numpy()
        assert np.abs(run_session(session, batch) - wanted).max() < 1e-4


def analysed(model: Classifier, tokenizer: Tokenizer):
    texts = tiny_texts(64).rows
    fitted, held_out = tokenizer.batch(texts[:48]), tokenizer.batch(texts[48:])
    config = AnalysisConfig(texts=48, cost_texts=16)
    return (
        analyse(model, [fitted], [held_out], config, TASK),
        TensorBatch(fitted),
        TensorBatch(held_out),
    )


@torch.no_grad()
def test_costs_are_those_of_the_whole_cut_model_and_refit_brings_it_nearer(made):
    model, tokenizer, _ = made
    analysis, fitted, held_out = analysed(model, tokenizer)
    wanted = model(held_out)[0].log_softmax(-1)
    assert set(analysis.int8_loss) == set(analysis.costs)
    for name, width in (("0.attention", 1), ("1.ffn", 32), ("2.attention", 0), ("3.ffn", 0)):
        found = cut(model, {name: analysis.sublayer_widths[name][width]})(held_out)[0].log_softmax(-1)
        divergence = (wanted.exp() * (wanted - found)).sum(-1).mean()
        assert analysis.costs[name][width] == pytest.approx(float(divergence), rel=1e-3, abs=1e-6)
    shape = model.architecture.with_layers([(2, 32), (0, 64), (3, 0), (1, 32)])
    student = cut(model, choose_pruned_sublayers(analysis.sublayer_widths, shape))
    before = _states_error(student, model, fitted)
    refit(student, model, [fitted])
    assert _states_error(student, model, fitted) < before


def test_the_latency_table_has_every_width_in_both_precisions(tmp_path):
    make_tiny_family(tmp_path, "modernbert")
    table = measure_latency(read_architecture(tmp_path), [6, 20], rounds=1)
    for amounts in (table.int8, table.fp32):
        assert set(amounts.attention) == set(amounts.last_attention) == set(range(5))
        assert {0, 32, 96} <= set(amounts.ffn) == set(amounts.last_ffn)
        assert amounts.attention[0] == amounts.ffn[0] == 0


def _states_error(student: Classifier, teacher: Classifier, batch: TensorBatch) -> float:
    ours, theirs = student(batch)[1], teacher(batch)[1]
    return float((ours[-2] - theirs[-2])[batch.mask.bool()].pow(2).mean())


def test_static_int8_never_depends_on_batch_padding_or_order(made):
    _, _, folder = made
    source = open_source(folder / "source", folder, max_tokens=40)
    config = BundleConfig(recipe="static", max_loss=100)
    bundle = Bundle.open(
        make_bundle(source, BundleTexts.of(Texts(tiny_texts(96).rows, None, "tiny")), config, folder).folder.path
    )
    agreement = json.loads((bundle.folder.path / "agreement.json").read_text())
    assert agreement["torch_fp32"]["max_difference"] <= 1e-4
    assert agreement["fp32_int8"]["mean_difference"] < 0.15  # logits differ by about 1.2 from row to row
    engine = Engine.open(bundle)
    engine.self_check()
    assert largest_move(engine, tiny_texts(48).rows, batches=20, seed=1) < 1e-5


def test_modernbert_is_compressed_to_a_size_and_served(tmp_path, byte_clock):
    make_tiny_family(tmp_path / "source", "modernbert")
    inputs = labelled_inputs(tmp_path / "source", tmp_path, max_tokens=40)
    config = CompressConfig(analysis=AnalysisConfig(texts=32, cost_texts=16), heal=None, tolerance=0.1)
    ready = prepare(inputs, config, tmp_path)
    target = Target(kind="size_mb", value=0.13)
    made = compress_to(target, ready, config, tmp_path)
    bundle = Bundle.open(made.folder.path)
    assert bundle.architecture != load_checkpoint(inputs.source.path).architecture
    assert bundle.served_bytes("cpu-int8") == pytest.approx(0.13e6, rel=0.1)
    point = CandidateEvaluator(ready).evaluate(made.folder, target, 0.1)
    assert 0 <= point.score <= 1
    Engine.open(bundle).self_check()
