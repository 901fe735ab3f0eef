"""Checkpoints and architectures that are not computed as they should be are refused, by name."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import make_tiny_family
from transformers import AutoConfig, AutoModel

from compress.inputs.source import source_kind
from models.checkpoint import load_checkpoint, load_encoder, read_architecture
from models.errors import FolderError, InputError
from models.train.starting_point import load_source_id


@pytest.mark.parametrize(
    ("family", "key", "value", "told"),
    [
        ("bert", "model_type", "gpt2", "'gpt2'.*bert, ernie, .*xlm-roberta, mpnet, .*modernbert"),
        ("bert", "hidden_act", "silu", "hidden_act = 'silu': supported are gelu, .*gelu_new, .*relu"),
        ("bert", "is_decoder", True, "is_decoder"),
        ("roberta", "position_embedding_type", "relative_key", "position_embedding_type"),
        ("xlm-roberta", "hidden_act", "quick_gelu", "hidden_act"),
        ("distilbert", "activation", "silu", "activation"),
        ("electra", "hidden_act", "silu", "hidden_act"),
        ("modernbert", "hidden_activation", "silu", "hidden_activation"),
        ("modernbert", "classifier_activation", "tanh", "classifier_activation"),
        ("modernbert", "rope_scaling", {"rope_type": "linear", "factor": 2.0}, "rope_scaling"),
        ("modernbert", "classifier_pooling", "max", "pooling"),
        ("bert", "model_type", "deberta", "'deberta' model: supported are .*deberta-v2"),
        ("deberta-v2", "conv_kernel_size", 3, "conv_kernel_size = 3"),
        ("deberta-v2", "embedding_size", 32, "embedding_size = 32: only 64"),
        ("deberta-v2", "pooler_hidden_size", 128, "pooler_hidden_size = 128: only 64"),
        ("deberta-v2", "attention_head_size", 32, "attention_head_size = 32: only 16"),
        ("deberta-v2", "pos_att_type", "p2c|p2p", "pos_att_type p2p"),
        ("deberta-v2", "pooler_hidden_act", "silu", "pooler_activation"),
        ("deberta-v2", "position_buckets", "many", "buckets"),
        ("deberta-v2", "type_vocab_size", -1, "token_types"),
        ("deberta-v2", "hidden_act", "mish", "hidden_act"),
        ("bert", "num_attention_heads", 5, "5 attention heads"),
        ("bert", "hidden_size", "64", "hidden_size = '64'"),
        ("bert", "num_hidden_layers", 0, "num_hidden_layers = 0"),
        ("mpnet", "hidden_act", "swish", "hidden_act"),
        ("mpnet", "max_position_embeddings", 2, "positions"),
        ("ernie", "position_embedding_type", "relative_key", "position_embedding_type"),
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
    ("family", "key"), [("bert", "vocab_size"), ("electra", "embedding_size"), ("modernbert", "intermediate_size")]
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
    with pytest.raises(FolderError, match=r"too many weights, .* is model\.layers\.0\.mlp\.Wi\.bias: correct config"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))
    with pytest.raises(FolderError, match="lacks weights"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    with pytest.raises(FolderError, match="the config says"):
        load_checkpoint(tmp_path)


def test_a_table_of_another_size_is_named_as_in_the_file(tmp_path):
    make_tiny_family(tmp_path, "roberta")
    config = json.loads((tmp_path / "config.json").read_text()) | {"max_position_embeddings": 60}
    (tmp_path / "config.json").write_text(json.dumps(config))
    name = r"roberta\.embeddings\.position_embeddings\.weight"
    with pytest.raises(
        FolderError, match=rf"{name} has shape \(48, 64\), the config says \(60, 64\): correct config"
    ):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "gpt2"},
        {"modern": {}},
        {"deberta": {"span": 4}},
        {"family": "distilbert"},
        {"embedding_width": 4},
        {"pooling": "max"},
        {"layers": []},
    ],
)
def test_architectures_that_no_family_has_are_refused(tmp_path, changes):
    make_tiny_family(tmp_path, "bert")
    told = read_architecture(tmp_path).model_dump(mode="json") | changes
    (tmp_path / "architecture.json").write_text(json.dumps(told))
    with pytest.raises(FolderError, match="not a valid Architecture"):
        load_checkpoint(tmp_path)


# tensors that no module reads


def with_tensors(folder: Path, *names: str, config: dict | None = None) -> Path:
    """Add tensors to a checkpoint, and settings to its config."""
    path = folder / "model.safetensors"
    save_file(load_file(path) | {name: torch.ones(2, 2) for name in names}, path, metadata={"format": "pt"})
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(document | (config or {})))
    return folder


DEPTH = {"distilbert": "n_layers"}
LAYERS = {"bert": "bert.encoder.layer", "distilbert": "distilbert.transformer.layer", "modernbert": "model.layers"}
FIRST_MATRIX = {
    "bert": "bert.encoder.layer.0.attention.self.query", "modernbert": "model.layers.0.attn.Wqkv",
    "distilbert": "distilbert.transformer.layer.0.attention.q_lin",
}  # fmt: skip


@pytest.mark.parametrize(
    "family", ["bert", "roberta", "xlm-roberta", "distilbert", "electra", "modernbert", "deberta-v2"]
)
def test_more_layers_than_the_config_says_are_refused(tmp_path, family):
    make_tiny_family(tmp_path, family)
    with_tensors(tmp_path, config={DEPTH.get(family, "num_hidden_layers"): 1})
    last = 3 if family == "modernbert" else 1
    for load in (load_checkpoint, load_encoder):
        with pytest.raises(
            FolderError, match=rf"holds layer 1{f' to {last}' if last > 1 else ''} .*there are 1 layers"
        ):
            load(tmp_path)


def test_more_layers_of_a_bare_encoder_are_refused(tmp_path):
    AutoModel.from_pretrained(make_tiny_family(tmp_path / "full", "bert") and tmp_path / "full").save_pretrained(
        tmp_path
    )
    with_tensors(tmp_path, config={"num_hidden_layers": 1})
    with pytest.raises(FolderError, match="holds layer 1 "):
        load_encoder(tmp_path)


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert"])
@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.{0}.lora_A.weight", "{0}.lora_A.default.weight", "{0}.lora_magnitude_vector",
        "{1}.0.output.adapters.mine.adapter_down.0.weight", "{0}.ia3_l", "{0}.base_layer.weight",
    ],
)  # fmt: skip
def test_adapters_are_refused(tmp_path, family, name):
    make_tiny_family(tmp_path, family)
    with_tensors(tmp_path, name.format(FIRST_MATRIX[family], LAYERS[family]))
    with pytest.raises(FolderError, match=r"holds an adapter .*merge_and_unload"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("alone", [False, True])
def test_the_folder_of_an_adapter_is_refused_by_every_way_in(tmp_path, alone):
    make_tiny_family(tmp_path, "bert")
    (tmp_path / "adapter_config.json").write_text("{}")
    if alone:
        (tmp_path / "model.safetensors").rename(tmp_path / "adapter_model.safetensors")
        (tmp_path / "config.json").unlink()
    for way_in in (load_checkpoint, load_encoder, load_source_id, source_kind):
        with pytest.raises(FolderError, match=r"holds an adapter \(adapter_config.json\)"):
            way_in(tmp_path)


def test_another_module_inside_the_encoder_is_refused(tmp_path):
    make_tiny_family(tmp_path, "bert")
    with_tensors(tmp_path, "bert.encoder.layer.1.crossattention.self.query.weight", "bert.embeddings.second.weight")
    told = "inside the encoder that are not supported: bert.embeddings.second.weight, bert.encoder.layer.1.cross"
    with pytest.raises(FolderError, match=told):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_a_second_head_is_told_of_once(tmp_path, capsys, family):
    make_tiny_family(tmp_path, family)
    wanted = load_checkpoint(tmp_path).state_dict()
    assert capsys.readouterr().err == ""
    with_tensors(tmp_path, *(f"regressor.{n}.weight" for n in range(5)))
    for _ in range(2):
        found = load_checkpoint(tmp_path).state_dict()
    told = capsys.readouterr().err
    assert told.count("WARNING") == 1
    assert "regressor.0.weight, regressor.1.weight, regressor.2.weight and 2 more" in told
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_what_published_files_of_deberta_hold_besides_is_passed_over_without_a_word(tmp_path, capsys):
    make_tiny_family(tmp_path, "deberta-v2")
    wanted = load_checkpoint(tmp_path).state_dict()
    names = ["deberta.embeddings.position_embeddings.weight", "lm_predictions.lm_head.dense.weight"]
    with_tensors(tmp_path, *names, "lm_predictions.lm_head.bias", "mask_predictions.classifier.weight")
    capsys.readouterr()
    found = load_checkpoint(tmp_path).state_dict()
    assert all(torch.equal(wanted[name], tensor) for name, tensor in found.items())
    assert "prunella" not in capsys.readouterr().err
    with_tensors(tmp_path, "deberta.encoder.conv.conv.weight")  # of v2-xlarge
    with pytest.raises(FolderError, match=r"inside the encoder that are not supported: deberta\.encoder\.conv"):
        load_checkpoint(tmp_path)


PRETRAINED = [
    ("bert", "BertForPreTraining"), ("bert", "BertForMaskedLM"), ("roberta", "RobertaForMaskedLM"),
    ("roberta", "RobertaModel"), ("xlm-roberta", "XLMRobertaForMaskedLM"), ("distilbert", "DistilBertForMaskedLM"),
    ("electra", "ElectraForPreTraining"), ("electra", "ElectraForMaskedLM"), ("modernbert", "ModernBertForMaskedLM"),
    ("bert", "BertModel"), ("distilbert", "DistilBertModel"), ("modernbert", "ModernBertModel"),
    ("deberta-v2", "DebertaV2ForMaskedLM"), ("deberta-v2", "DebertaV2Model"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "name"), PRETRAINED)
def test_heads_of_pretraining_are_passed_over_without_a_word(tmp_path, capsys, family, name):
    make_tiny_family(tmp_path, family)
    config = AutoConfig.from_pretrained(tmp_path)
    getattr(transformers, name)(config).save_pretrained(tmp_path)
    prefix = (
        ""
        if name.endswith("Model")
        else {"xlm-roberta": "roberta", "modernbert": "model", "deberta-v2": "deberta"}.get(family, family) + "."
    )
    with_tensors(tmp_path, f"{prefix}embeddings.position_ids")  # in files of older versions of transformers
    capsys.readouterr()
    load_encoder(tmp_path)
    load_checkpoint(tmp_path, labels=2)
    assert "prunella" not in capsys.readouterr().err
