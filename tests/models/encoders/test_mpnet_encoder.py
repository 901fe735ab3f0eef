"""MPNet's relative positions: transformers' classes, long texts, heads that each layer keeps by itself."""

import json

import numpy as np
import pytest
import torch
from cutting import cut_units
from tiny import make_tiny_family, tiny_texts
from transformers import AutoModelForSequenceClassification
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder as Theirs

from compress.pruning.fisher import open_gates
from compress.pruning.hidden_width import Channels, narrow
from models.architecture import Architecture
from models.checkpoint import load_checkpoint, read_architecture, save_checkpoint
from models.classifier import Classifier, TensorBatch
from models.encoders.mpnet_encoder import distance_classes
from models.errors import FolderError
from models.task import Task
from models.tokenizer import Tokenizer
from models.train.optimizer import make_optimizer
from models.train.training_config import TrainingConfig

TASK = Task(labels=("a", "b", "c"))
ALL, NONE = np.arange(4), np.array([], dtype=int)
NEURONS = [np.arange(96), np.arange(0, 96, 3)]


@pytest.fixture
def theirs(tmp_path):
    return make_tiny_family(tmp_path, "mpnet", max_position_embeddings=402)


def batch_of(folder, tokens=400):
    """Rows of 300, 150 and a few tokens."""
    words = " ".join(text for (text,) in tiny_texts(64).rows).split()
    rows = [(" ".join(words[:count]),) for count in (298, 148, 7, 1, 0)]
    return TensorBatch(Tokenizer.open(folder, tokens).batch(rows))


def saved(model, folder):
    folder.mkdir()
    save_checkpoint(model, TASK, folder)
    return load_checkpoint(folder)


@pytest.mark.parametrize("tokens", [1, 2, 8, 9, 16, 17, 127, 128, 129, 130, 600])
def test_distances_have_the_classes_of_transformers(tokens):
    positions = torch.arange(tokens)
    wanted = Theirs.relative_position_bucket(positions[None, :] - positions[:, None], num_buckets=32)
    found = distance_classes(tokens).unfold(0, tokens, 1).flip(0)
    assert torch.equal(found, wanted)


@torch.no_grad()
def test_long_texts_in_a_padded_batch_and_alone_equal_transformers(tmp_path, theirs):
    model, batch = load_checkpoint(tmp_path), batch_of(tmp_path)
    wanted = theirs(batch.ids, attention_mask=batch.mask).logits
    assert batch.ids.shape[1] >= 300
    assert batch.ids[1, -1] == 1  # <pad>, not the unused [PAD]
    assert torch.allclose(model(batch)[0], wanted, atol=1e-5)
    for row in range(len(batch.ids)):
        length = int(batch.mask[row].sum())
        alone = TensorBatch.__new__(TensorBatch)
        alone.ids, alone.mask = batch.ids[row : row + 1, :length], batch.mask[row : row + 1, :length]
        alone.types = torch.zeros_like(alone.ids)
        assert torch.allclose(model(alone)[0], wanted[row : row + 1], atol=1e-5)
    table = model.encoder.relative.weight
    table.zero_()
    assert not torch.allclose(model(batch)[0], wanted, atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("changes", [{"relative_attention_num_buckets": 40}, {"pad_token_id": 5}])
def test_what_transformers_ignores_in_the_config_changes_nothing_here(tmp_path, changes):
    theirs = make_tiny_family(tmp_path, "mpnet", **changes)
    model, batch = load_checkpoint(tmp_path), batch_of(tmp_path, 48)
    assert torch.allclose(model(batch)[0], theirs(batch.ids, attention_mask=batch.mask).logits, atol=1e-5)
    saved(model, tmp_path / "saved")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    assert torch.allclose(again(batch.ids, attention_mask=batch.mask).logits, model(batch)[0], atol=1e-5)


def test_a_table_of_fewer_classes_is_refused(tmp_path):
    make_tiny_family(tmp_path, "mpnet")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"relative_attention_num_buckets": 16}))
    with pytest.raises(FolderError, match="buckets"):
        read_architecture(tmp_path)


@torch.no_grad()
def test_each_layer_reads_the_columns_of_the_heads_that_it_kept(tmp_path, theirs):
    model, batch = load_checkpoint(tmp_path), batch_of(tmp_path)
    gates = open_gates(model, 1)
    gates.heads[0][:, [0, 2]], gates.heads[1][:, [1]] = 0, 0
    smaller = cut_units(model, [np.array([1, 3]), np.array([0, 2, 3])], [np.arange(96)] * 2)
    assert torch.allclose(smaller(batch)[0], model(batch, gates)[0], atol=1e-5)
    again = saved(smaller, tmp_path / "once")
    assert torch.equal(again(batch)[0], smaller(batch)[0])
    gates.heads[0][:, 1], gates.heads[1][:, [0, 2]] = 0, 0
    twice = cut_units(again, [np.array([1]), np.array([2])], [np.arange(96)] * 2)  # of the heads that are left
    assert torch.allclose(twice(batch)[0], model(batch, gates)[0], atol=1e-5)
    assert [layer.attention.columns.weight.tolist() for layer in twice.encoder.layers] == [[3], [3]]
    assert twice.encoder.relative.weight.shape == (32, 4)
    assert torch.equal(saved(twice, tmp_path / "twice")(batch)[0], twice(batch)[0])
    with pytest.raises((ValueError, KeyError)):  # not even where all layers have as many heads
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "twice")
    gates.heads[0].zero_()
    dropped = cut_units(twice, [NONE, np.array([0])], [np.arange(96)] * 2)
    assert torch.allclose(dropped(batch)[0], model(batch, gates)[0], atol=1e-5)


@torch.no_grad()
def test_without_pruned_heads_transformers_reads_the_folder(tmp_path, theirs):
    model, batch = load_checkpoint(tmp_path), batch_of(tmp_path)
    smaller = cut_units(model, [ALL, ALL], [np.arange(0, 96, 3)] * 2)
    saved(smaller, tmp_path / "saved")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    assert torch.allclose(again(batch.ids, attention_mask=batch.mask).logits, smaller(batch)[0], atol=1e-5)


@torch.no_grad()
def test_a_narrower_hidden_state_keeps_the_table(tmp_path, theirs):
    model, batch = load_checkpoint(tmp_path), batch_of(tmp_path)
    cut = cut_units(model, [np.array([0, 3]), ALL], NEURONS)
    smaller = narrow(cut, Channels(np.arange(0, 64, 2), np.arange(0, 64, 2)))
    assert torch.equal(smaller.encoder.relative.weight, model.encoder.relative.weight)
    assert smaller.encoder.layers[0].attention.columns.weight.tolist() == [0, 3]
    again = saved(smaller, tmp_path / "saved")
    assert torch.equal(again(batch)[0], smaller(batch)[0])


def test_two_heads_of_a_narrow_model_are_no_plain_mpnet(tmp_path, theirs):
    shape = read_architecture(tmp_path)
    assert shape.is_uniform()
    narrow_shape = shape.model_copy(update={"width": 32}).with_layers([(2, 96), (2, 96)])  # 2 · 16 = 32
    assert not narrow_shape.is_uniform()
    with pytest.raises(ValueError, match="more heads than the table"):
        Architecture.model_validate(shape.with_layers([(5, 96), (4, 96)]).model_dump())
    with pytest.raises(ValueError, match="`relative` must be set"):
        Architecture.model_validate(shape.model_dump() | {"relative": None})


def test_a_length_first_seen_in_inference_can_be_trained_on(tmp_path, theirs):
    model, batch = load_checkpoint(tmp_path), batch_of(tmp_path)
    distance_classes.cache_clear()
    with torch.inference_mode():
        model(batch)
    model(batch)[0].sum().backward()
    assert model.encoder.relative.weight.grad.abs().sum() > 0


def test_the_table_is_trained_as_what_lies_below_all_layers(tmp_path, theirs):
    model = load_checkpoint(tmp_path)
    model = Classifier(model.architecture, 3)
    rates = {}
    optimizer = make_optimizer(model, TrainingConfig(learning_rate=1e-3, layer_decay=0.5))
    for group in optimizer.param_groups:
        rates |= {id(parameter): group["lr"] for parameter in group["params"]}
    encoder = model.encoder
    assert rates[id(encoder.relative.weight)] == rates[id(encoder.embeddings.tokens.weight)] == 1e-3 / 2**3
    model(batch_of(tmp_path))[0].sum().backward()
    assert (encoder.relative.weight.grad.abs().sum(0) > 0).all()
