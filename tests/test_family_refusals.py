"""Checkpoints and architectures that are not computed as they should be are refused, by name."""

import json

import pytest
from tiny import make_tiny_family

from models.checkpoint import load_checkpoint, read_architecture
from models.errors import FolderError, InputError


@pytest.mark.parametrize(
    ("family", "key", "value", "told"),
    [
        ("bert", "model_type", "gpt2", "'gpt2'.*bert, roberta, xlm-roberta, distilbert, electra, modernbert"),
        ("bert", "model_type", None, "None"),
        ("bert", "hidden_act", "relu", "hidden_act = 'relu'"),
        ("bert", "is_decoder", True, "is_decoder"),
        ("roberta", "position_embedding_type", "relative_key", "position_embedding_type"),
        ("xlm-roberta", "hidden_act", "gelu_new", "hidden_act"),
        ("distilbert", "activation", "relu", "activation"),
        ("electra", "hidden_act", "silu", "hidden_act"),
        ("modernbert", "hidden_activation", "silu", "hidden_activation"),
        ("modernbert", "classifier_activation", "tanh", "classifier_activation"),
        ("modernbert", "rope_scaling", {"rope_type": "linear", "factor": 2.0}, "rope_scaling"),
        ("modernbert", "classifier_pooling", "max", "pooling"),
        ("bert", "num_attention_heads", 5, "5 attention heads"),
        ("bert", "hidden_size", "64", "hidden_size = '64'"),
        ("bert", "num_hidden_layers", 0, "num_hidden_layers = 0"),
        ("roberta", "pad_token_id", 60, "positions"),
        ("roberta", "pad_token_id", -1, "pad_token_id = -1"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(tmp_path, family, key, value, told):
    make_tiny_family(tmp_path, family)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(InputError, match=told):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("family", "key"), [("bert", "type_vocab_size"), ("electra", "embedding_size"), ("modernbert", "local_attention")]
)
def test_missing_keys_are_named(tmp_path, family, key):
    make_tiny_family(tmp_path, family)
    config = json.loads((tmp_path / "config.json").read_text())
    del config[key]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(FolderError, match=f"lacks {key}"):
        read_architecture(tmp_path)


def test_weights_that_do_not_fit_the_config_are_refused(tmp_path):
    make_tiny_family(tmp_path, "modernbert", mlp_bias=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"mlp_bias": False}))
    with pytest.raises(FolderError, match="too many weights"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))
    with pytest.raises(FolderError, match="lacks weights"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    with pytest.raises(FolderError, match="the config says"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "gpt2"},
        {"modern": {}},
        {"family": "distilbert"},
        {"embedding_width": 4},
        {"pooling": "mean"},
        {"layers": []},
    ],
)
def test_architectures_that_no_family_has_are_refused(tmp_path, changes):
    make_tiny_family(tmp_path, "bert")
    told = read_architecture(tmp_path).model_dump(mode="json") | changes
    (tmp_path / "architecture.json").write_text(json.dumps(told))
    with pytest.raises(FolderError, match="not a valid Architecture"):
        load_checkpoint(tmp_path)
