import itertools
import json

import numpy as np
import pytest
import torch
from cutting import cut_units
from tiny import TINY_FAMILIES, make_tiny_family, tiny_texts
from transformers import AutoModel, AutoModelForSequenceClassification, BertForMaskedLM

from compress.pruning.fisher import open_gates
from compress.quantization.quantize import int8_variant
from export.fused_operators import check_fused
from export.graph_precision import Precision
from export.writer import to_onnx, write_int8
from models.architecture import Architecture
from models.checkpoint import (
    load_checkpoint,
    load_encoder,
    read_architecture,
    read_tensors,
    save_checkpoint,
    save_encoder,
)  # fmt: skip
from models.classifier import Classifier, TensorBatch
from models.encoders.modernbert_encoder import make_views
from models.errors import FolderError
from models.families import FAMILIES
from models.task import Task
from models.tokenizer import Tokenizer
from service.model.engine import run_session
from service.model.session import open_session

POST_NORM = [name for name in TINY_FAMILIES if name != "modernbert"]
BIASES = dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), True)
VARIANTS = [
    *((name, {}) for name in TINY_FAMILIES),
    ("roberta", {"pad_token_id": 3}),
    *((name, {"hidden_act": "relu"}) for name in ("bert", "ernie", "mpnet", "deberta-v2")),
    *(("roberta", {"hidden_act": name}) for name in ("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python")),
    ("electra", {"hidden_act": "gelu_new"}),
    ("distilbert", {"activation": "relu"}),
    ("electra", {"embedding_size": 64}),
    ("distilbert", {"sinusoidal_pos_embds": True}),
    ("modernbert", {"classifier_pooling": "mean", **BIASES}),
    ("modernbert", {"local_rope_theta": 50.0, "global_rope_theta": 700.0, "global_attn_every_n_layers": 2}),
    ("modernbert", {"local_rope_theta": None}),
    ("deberta-v2", {"share_att_key": False, "norm_rel_ebd": "none", "position_biased_input": True}),
    ("deberta-v2", {"position_buckets": -1, "max_relative_positions": 7, "type_vocab_size": 2}),
    ("deberta-v2", {"share_att_key": False, "pos_att_type": ["c2p"], "pooler_hidden_act": "tanh"}),
    ("deberta-v2", {"pos_att_type": ["p2c"], "max_relative_positions": 30, "position_biased_input": True}),
    ("deberta-v2", {"relative_attention": False, "position_biased_input": True, "type_vocab_size": 1}),
]
each_family = pytest.mark.parametrize("family", TINY_FAMILIES)
each_variant = pytest.mark.parametrize(("family", "changes"), VARIANTS)
TASK = Task(labels=("a", "b", "c"))


def batches(folder, pair=False):
    """One padded batch, and its rows alone: the longest row has 10 tokens more than the shortest, or so."""
    tokenizer, rows = Tokenizer.open(folder, 40), tiny_texts(9, pair).rows
    rows[3] = tuple(" ".join([text] * 3) for text in rows[3])
    return [TensorBatch(tokenizer.batch(some)) for some in (rows, *([row] for row in rows))]


def ask(theirs, batch):
    typed = getattr(theirs.config, "type_vocab_size", 0) > 1
    types = {"token_type_ids": batch.types} if typed else {}
    return theirs(batch.ids, attention_mask=batch.mask, output_hidden_states=True, **types)


def check_equal(model, theirs, folder, pair=False):
    """The logits, and the hidden states of real tokens; what stands on padding feeds nothing."""
    for batch in batches(folder, pair):
        wanted, base = ask(theirs, batch), ask(theirs.base_model, batch)
        logits, states = model(batch)
        hidden, _ = model.encoder(batch.ids, batch.mask, batch.types)
        real = batch.mask.bool()
        assert torch.allclose(logits, wanted.logits, atol=1e-5)
        assert torch.allclose(hidden[real], base.last_hidden_state[real], atol=1e-5)
        assert len(states) == len(base.hidden_states) - 1
        # all but the last: transformers 4 gives ModernBERT's before the last norm, transformers 5 after it
        for found, state in zip(states[:-1], base.hidden_states[1:-1], strict=True):
            assert torch.allclose(found[real], state[real], atol=1e-4)  # not normalized: values near 10


@each_variant
@pytest.mark.parametrize("pair", [False, True])
@torch.no_grad()
def test_answers_equal_transformers(tmp_path, family, changes, pair):
    theirs = make_tiny_family(tmp_path, family, **changes)
    model = load_checkpoint(tmp_path)
    assert model.architecture.family == family
    check_equal(model, theirs, tmp_path, pair)
    assert model(batches(tmp_path, pair)[0])[0].std(0).min() > 1e-3  # answers that hardly differ would hide faults


@pytest.mark.parametrize("family", ["bert", "ernie", "electra"])
@torch.no_grad()
def test_segments_change_the_answer_where_there_are_any(tmp_path, family):
    theirs, model = make_tiny_family(tmp_path, family), load_checkpoint(tmp_path)
    batch = batches(tmp_path, pair=True)[0]
    typed = model(batch)[0]
    batch.types = torch.zeros_like(batch.types)
    untyped = model(batch)[0]
    assert not torch.allclose(typed, untyped, atol=1e-3)
    assert torch.allclose(untyped, theirs(batch.ids, attention_mask=batch.mask).logits, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
@torch.no_grad()
def test_a_table_of_one_segment_ignores_the_segments_of_a_pair(tmp_path, family):
    theirs, model = make_tiny_family(tmp_path, family, type_vocab_size=1), load_checkpoint(tmp_path)
    batch = batches(tmp_path, pair=True)[0]
    assert batch.types.max() == 1
    assert torch.allclose(model(batch)[0], theirs(batch.ids, attention_mask=batch.mask).logits, atol=1e-5)


@each_variant
@torch.no_grad()
def test_saved_folders_load_in_transformers_and_here(tmp_path, family, changes):
    make_tiny_family(tmp_path / "source", family, **changes)
    model = load_checkpoint(tmp_path / "source")
    saved = tmp_path / "saved"
    saved.mkdir()
    save_checkpoint(model, TASK, saved)
    theirs, told = AutoModelForSequenceClassification.from_pretrained(
        saved, attn_implementation="eager", output_loading_info=True
    )
    assert not any(told.values()), told
    assert theirs.config.model_type == family
    assert theirs.config.id2label == {0: "a", 1: "b", 2: "c"}
    check_equal(model, theirs.eval(), tmp_path / "source")
    batch = batches(tmp_path / "source")[0]
    assert torch.equal(load_checkpoint(saved)(batch)[0], model(batch)[0])
    (saved / "architecture.json").unlink()  # what config.json alone says is the same
    assert read_architecture(saved) == model.architecture


@each_family
@torch.no_grad()
def test_pruned_shapes_are_the_same_after_load(tmp_path, family):
    make_tiny_family(tmp_path, family)
    shape = read_architecture(tmp_path)
    widths = [(2, 0), (0, 32), (4, 96), (0, 0)][: len(shape.layers)]
    torch.manual_seed(1)
    model = Classifier(shape.with_layers(widths), labels=3).eval()
    for parameter in model.parameters():
        parameter.normal_(std=0.2)
    saved = tmp_path / "saved"
    saved.mkdir()
    save_checkpoint(model, TASK, saved)
    assert read_architecture(saved).layers == model.architecture.layers
    batch = batches(tmp_path)[0]
    assert torch.equal(load_checkpoint(saved)(batch)[0], model(batch)[0])
    with pytest.raises((ValueError, KeyError)):  # transformers must not take it for a plain one
        AutoModelForSequenceClassification.from_pretrained(saved)


@pytest.mark.parametrize("family", POST_NORM)
@torch.no_grad()
def test_surgery_equals_the_gated_model(tmp_path, family):
    make_tiny_family(tmp_path, family)
    model, batch = load_checkpoint(tmp_path), batches(tmp_path)[0]
    kept = [np.array([0, 2]), np.array([], dtype=int)], [np.array([], dtype=int), np.arange(0, 96, 3)]
    gates = open_gates(model, 1)
    for gate, some in zip((*gates.heads, *gates.neurons), (*kept[0], *kept[1]), strict=True):
        gate.zero_()
        gate[:, torch.from_numpy(some).long()] = 1
    assert torch.allclose(cut_units(model, *kept)(batch)[0], model(batch, gates)[0], atol=1e-5)


@torch.no_grad()
def test_modernbert_gates_equal_zeroed_weights(tmp_path):
    make_tiny_family(tmp_path, "modernbert", **BIASES)
    model, batch = load_checkpoint(tmp_path), batches(tmp_path)[0]
    plain = model(batch)[0]
    gates = open_gates(model, 1)
    assert torch.allclose(model(batch, gates)[0], plain, atol=1e-6)
    gates.heads[1][:, 2], gates.neurons[2][:, 7:30] = 0, 0
    gated = model(batch, gates)[0]
    assert not torch.allclose(gated, plain, atol=1e-3)
    model.encoder.layers[1].attention.output.weight[:, 32:48] = 0  # head 2
    model.encoder.layers[2].ffn.fall.weight[:, 7:30] = 0
    assert torch.allclose(model(batch)[0], gated, atol=1e-5)


def test_modernbert_gates_have_gradients_beside_far_padding(tmp_path):
    make_tiny_family(tmp_path, "modernbert")
    model, batch = load_checkpoint(tmp_path), batches(tmp_path)[0]
    gates = open_gates(model, len(batch.ids))
    for gate in (*gates.heads, *gates.neurons):
        gate.requires_grad_()
    model(batch, gates)[0].sum().backward()
    for gate in (*gates.heads, *gates.neurons):
        assert torch.isfinite(gate.grad).all()
        assert (gate.grad != 0).all()


def test_modernbert_windows_are_as_wide_as_the_config_says_and_never_empty(tmp_path):
    make_tiny_family(tmp_path, "modernbert")
    mask = torch.tensor([[1] * 9, [1] * 3 + [0] * 6])
    views = make_views(mask, read_architecture(tmp_path))
    for query, key in itertools.product(range(9), range(9)):
        assert views[False].mask[0, 0, query, key] == (abs(query - key) <= 2)
        assert views[True].mask[1, 0, query, key] == (key < 3)
    assert all(view.mask.any(-1).all() for view in views.values())


@each_family
@torch.no_grad()
def test_encoders_are_saved_without_a_head_and_read_by_transformers(tmp_path, family):
    make_tiny_family(tmp_path, family)
    encoder, batch, saved = load_encoder(tmp_path), batches(tmp_path)[0], tmp_path / "saved"
    assert not encoder.training
    saved.mkdir()
    save_encoder(encoder, saved, extra={"some.further.tensor": torch.ones(3, 2).T})
    theirs = AutoModel.from_pretrained(saved, attn_implementation="eager").eval()
    assert type(theirs).__name__ == json.loads((saved / "config.json").read_text())["architectures"][0]
    real = batch.mask.bool()
    wanted = ask(theirs, batch).last_hidden_state[real]
    assert torch.allclose(encoder(batch.ids, batch.mask, batch.types)[0][real], wanted, atol=1e-5)
    again = load_encoder(saved)
    assert torch.equal(again(batch.ids, batch.mask, batch.types)[0], encoder(batch.ids, batch.mask, batch.types)[0])
    tensors = read_tensors(saved)
    assert torch.equal(tensors["some.further.tensor"], torch.ones(2, 3))
    prefix = FAMILIES[family].names.prefix
    assert all(name.startswith((f"{prefix}.", "some.")) for name in tensors)


@torch.no_grad()
def test_a_masked_language_model_is_an_encoder_with_more_tensors(tmp_path):
    source = make_tiny_family(tmp_path, "bert")
    theirs = BertForMaskedLM(source.config).eval()
    theirs.bert.load_state_dict(source.bert.state_dict(), strict=False)
    extra = {name: tensor for name, tensor in theirs.state_dict().items() if name.startswith("cls.predictions.")}
    (tmp_path / "saved").mkdir()
    save_encoder(load_encoder(tmp_path), tmp_path / "saved", extra, "BertForMaskedLM")
    again, told = BertForMaskedLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(told.values()), told
    batch = batches(tmp_path)[0]
    assert torch.allclose(ask(again.eval(), batch).logits, ask(theirs, batch).logits, atol=1e-5)
    assert load_checkpoint(tmp_path / "saved", labels=2)(batch)[0].shape == (9, 2)


@each_family
@pytest.mark.parametrize("bare", [False, True])
@torch.no_grad()
def test_a_bare_encoder_gets_a_new_seeded_head(tmp_path, family, bare):
    theirs = make_tiny_family(tmp_path, family)
    if bare:  # saved without the prefix
        theirs.base_model.save_pretrained(tmp_path)
        with pytest.raises(FolderError, match="without a classification head"):
            load_checkpoint(tmp_path)
    first, second = (load_checkpoint(tmp_path, labels=5, seed=seed, dropout=0.3) for seed in (4, 4))
    other = load_checkpoint(tmp_path, labels=5, seed=7)
    batch = batches(tmp_path)[0]
    assert torch.equal(first(batch)[0], second(batch)[0])
    assert not torch.equal(first(batch)[0], other(batch)[0])
    assert first.labels == 5
    assert torch.equal(first.head.dense.weight, other.head.dense.weight) is not bare
    assert {m.p for m in first.modules() if isinstance(m, torch.nn.Dropout)} == {0.3}
    wanted = ask(theirs.base_model, batch).last_hidden_state
    hidden, _ = first.encoder(batch.ids, batch.mask, batch.types)
    real = batch.mask.bool()
    assert torch.allclose(hidden[real], wanted[real], atol=1e-5)


@torch.no_grad()
def test_old_names_of_norms_are_read(tmp_path):
    make_tiny_family(tmp_path, "bert")
    wanted, batch = load_checkpoint(tmp_path), batches(tmp_path)[0]
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in read_tensors(tmp_path).items()
    }
    (tmp_path / "model.safetensors").unlink()
    torch.save(old, tmp_path / "pytorch_model.bin")
    assert any(name.endswith("gamma") for name in old)
    assert torch.equal(load_checkpoint(tmp_path)(batch)[0], wanted(batch)[0])


def test_old_architecture_files_are_read():
    old = {
        "family": "bert", "vocabulary": 30, "positions": 16, "token_types": 2, "width": 8, "head_size": 4,
        "layers": [{"heads": 2, "ffn": 16}, {"heads": 0, "ffn": 3}], "norm_epsilon": 1e-12,
    }  # fmt: skip
    shape = Architecture.model_validate(old)
    assert (shape.family, shape.table_width, shape.head_activation, shape.pooling) == ("bert", 8, "tanh", "cls")
    assert Architecture.model_validate_json(shape.model_dump_json()) == shape


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        *((name, {}) for name in POST_NORM), ("bert", {"hidden_act": "relu"}),
        ("roberta", {"hidden_act": "gelu_new"}), ("distilbert", {"activation": "relu"}),
        ("deberta-v2", {"hidden_act": "gelu_new"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("pruned", [False, True])
@torch.no_grad()
def test_onnx_equals_torch(tmp_path, family, changes, pair, pruned):
    make_tiny_family(tmp_path, family, **changes)
    model = load_checkpoint(tmp_path)
    if pruned:
        model = cut_units(
            model, [np.array([1, 3]), np.array([], dtype=int)], [np.array([], dtype=int), np.arange(0, 96, 2)]
        )
    to_onnx(model, tmp_path / "fp32.onnx", pair)
    check_fused(tmp_path / "fp32.onnx", model.architecture, Precision.all_fp32(model.architecture), static=False)
    int8_path, precision = tmp_path / "int8.onnx", Precision.all_int8(model.architecture)
    write_int8(model, int8_path, pair, None, precision)
    check_fused(int8_path, model.architecture, precision, static=False)
    fp32, int8 = open_session(tmp_path / "fp32.onnx"), open_session(int8_path, variant=int8_variant("dynamic"))
    typed = any(node.name == "token_type_ids" for node in fp32.get_inputs())
    assert typed == (pair and family in ("bert", "ernie", "electra"))
    tokenizer, rows = Tokenizer.open(tmp_path, 40), tiny_texts(9, pair).rows
    for some in (rows, *([row] for row in rows)):
        batch = tokenizer.batch(some)
        wanted = model(TensorBatch(batch))[0].numpy()
        assert np.allclose(run_session(fp32, batch), wanted, atol=1e-4)
        assert np.abs(run_session(int8, batch) - wanted).max() < 0.3
