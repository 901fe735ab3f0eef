"""DeBERTa cut, refitted, quantized, compressed and answered: the same promises as for BERT."""

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
from compress.pruning.hidden_width import narrowed
from compress.pruning.refit import refit
from compress.pruning.surgery import choose_pruned_sublayers, cut
from compress.search.cost_table import size_cost_table
from compress.search.search_to_target import Target
from export.graph_precision import Precision
from export.writer import write_int8
from models.checkpoint import load_checkpoint, read_architecture, read_config, save_checkpoint
from models.classifier import Classifier, TensorBatch
from models.data.texts import Texts
from models.errors import InputError
from models.finetuning.predict import predict
from models.task import Task
from models.tokenizer import Tokenizer
from service.model.bundle import Bundle
from service.model.engine import Engine
from tools.batch_invariance import largest_move

NONE = np.array([], dtype=int)
HEADS, NEURONS = [np.array([1, 3]), NONE], [NONE, np.arange(5, 40)]
OWN = {"share_att_key": False, "norm_rel_ebd": "none", "type_vocab_size": 2}
TASK = Task(labels=("a", "b", "c"), max_tokens=40)


@pytest.fixture(params=[{}, OWN], ids=["shared", "own"])
def made(request, tmp_path):
    make_tiny_family(tmp_path / "source", "deberta-v2", **request.param)
    return load_checkpoint(tmp_path / "source"), Tokenizer.open(tmp_path / "source", 40), tmp_path


@torch.no_grad()
def test_positions_go_with_their_heads_and_a_cut_folder_is_the_same_after_load(made):
    model, tokenizer, folder = made
    batch = TensorBatch(tokenizer.batch(tiny_texts(9).rows))
    gates = open_gates(model, 1)
    for gate, some in zip((*gates.heads, *gates.neurons), (*HEADS, *NEURONS), strict=True):
        gate.zero_()
        gate[:, torch.from_numpy(some).long()] = 1
    smaller = cut_units(model, HEADS, NEURONS)
    assert torch.allclose(smaller(batch)[0], model(batch, gates)[0], atol=1e-5)
    own = smaller.encoder.layers[0].attention.pos_key
    assert own is None or own.weight.shape == (32, 64)
    assert not any("layers.1.attention.pos" in name for name in smaller.state_dict())
    (folder / "saved").mkdir()
    save_checkpoint(smaller, TASK, folder / "saved")
    assert read_config(folder / "saved")["model_type"] == "prunella-deberta-v2"
    assert torch.equal(load_checkpoint(folder / "saved")(batch)[0], smaller(batch)[0])


@torch.no_grad()
def test_refit_brings_a_cut_model_nearer(made):
    model, tokenizer, _ = made
    rows = tiny_texts(64).rows
    fitted, held_out = tokenizer.batch(rows[:48]), tokenizer.batch(rows[48:])
    analysis = analyse(model, [fitted], [held_out], AnalysisConfig(texts=48, cost_texts=16), TASK)
    shape = model.architecture.with_layers([(2, 32), (1, 64)])
    student = cut(model, choose_pruned_sublayers(analysis.sublayer_widths, shape))
    batch = TensorBatch(fitted)

    def error():
        return float((student(batch)[1][0] - model(batch)[1][0])[batch.mask.bool()].pow(2).mean())

    before = error()
    refit(student, model, [batch])
    assert error() < before


def test_static_int8_never_depends_on_batch_padding_or_order(made):
    _, _, folder = made
    source = open_source(folder / "source", folder, max_tokens=40)
    texts = BundleTexts.of(Texts(tiny_texts(96).rows, None, "tiny"))
    made_bundle = make_bundle(source, texts, BundleConfig(recipe="static", max_loss=100), folder)
    engine = Engine.open(Bundle.open(made_bundle.folder.path))
    engine.self_check()
    assert largest_move(engine, tiny_texts(48).rows, batches=20, seed=1) < 1e-5


def test_deberta_is_compressed_to_a_size_and_served(tmp_path, byte_clock):
    make_tiny_family(tmp_path / "source", "deberta-v2", **OWN)
    inputs = labelled_inputs(tmp_path / "source", tmp_path, max_tokens=40)
    config = CompressConfig(analysis=AnalysisConfig(texts=32, cost_texts=16), heal=None, tolerance=0.1)
    ready = prepare(inputs, config, tmp_path)
    target = Target(kind="size_mb", value=0.11)
    result = compress_to(target, ready, config, tmp_path)
    bundle = Bundle.open(result.folder.path)
    assert bundle.architecture != load_checkpoint(inputs.source.path).architecture
    assert bundle.served_bytes("cpu-int8") == pytest.approx(0.11e6, rel=0.1)
    assert 0 <= CandidateEvaluator(ready).evaluate(result.folder, target, 0.1).score <= 1
    Engine.open(bundle).self_check()


def test_fewer_positions_leave_the_answers_of_short_texts(made):
    model, tokenizer, folder = made
    short = model.architecture.model_copy(update={"positions": 24})
    encoded = tokenizer.encode(tiny_texts(9).rows)
    wanted = predict(model, encoded, tokenizer)
    (folder / "short").mkdir()
    model.encoder.architecture = short
    save_checkpoint(model, TASK, folder / "short")
    (folder / "short" / "architecture.json").unlink()
    assert read_architecture(folder / "short") == short  # the distances beyond which one bucket follows are as before
    assert np.array_equal(predict(load_checkpoint(folder / "short"), encoded, tokenizer), wanted)


def test_the_size_table_counts_the_positions(made):
    _, _, folder = made
    shape = read_architecture(folder / "source")

    def size(*widths):
        write_int8(Classifier(shape.with_layers(widths), 3).eval(), folder / "size.onnx", False, None)
        return (folder / "size.onnx").stat().st_size

    table = size_cost_table(shape, size((0, 0), (0, 0)))
    precision = Precision.all_int8(shape)
    for heads in ((4, 0), (0, 4), (2, 1)):
        widths = [(h, 0) for h in heads]
        names = 7_000 * sum(h > 0 for h in heads)  # of nodes and weights, which the table does not count
        assert size(*widths) - table.total(shape.with_layers(widths), precision) == pytest.approx(0, abs=names)


def test_a_narrower_state_is_refused_by_name(made):
    with pytest.raises(InputError, match="deberta-v2 has a table of positions"):
        narrowed(made[0].architecture, 32)
