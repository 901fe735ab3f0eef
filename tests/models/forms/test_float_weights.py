"""Weights that are no ordinary numbers are refused by the name of a tensor, whatever stored them so."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_tiny_family

from models.checkpoint import load_checkpoint, load_encoder, read_architecture
from models.errors import FolderError, InputError


def change(folder, edit):
    path = folder / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in edit(load_file(path)).items()}, path)


QUERY = "bert.encoder.layer.0.attention.self.query.weight"


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.int32, torch.bool, torch.float8_e4m3fn])
@pytest.mark.parametrize("load", [load_checkpoint, load_encoder])
def test_integers_and_quantized_weights_are_refused(tmp_path, kind, load):
    make_tiny_family(tmp_path, "bert")
    change(tmp_path, lambda tensors: tensors | {QUERY: tensors[QUERY].to(kind)})
    name = str(kind).removeprefix("torch.")
    with pytest.raises(FolderError, match=rf"{QUERY} is {name} .*save the model dequantized"):
        load(tmp_path)


def test_tensors_of_gptq_are_refused(tmp_path):
    make_tiny_family(tmp_path, "bert")
    packed = {QUERY.replace("weight", "qweight"): torch.zeros(8, 64, dtype=torch.int32)}
    change(tmp_path, lambda tensors: {n: t for n, t in tensors.items() if n != QUERY} | packed)
    with pytest.raises(FolderError, match=r"query\.qweight is int32"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_and_integer_positions_are_read(tmp_path, kind):
    make_tiny_family(tmp_path, "bert")
    ids = {"bert.embeddings.position_ids": torch.arange(48)[None]}
    change(tmp_path, lambda tensors: {n: t.to(kind) for n, t in tensors.items()} | ids)
    assert {t.dtype for t in load_checkpoint(tmp_path).state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("key", "value", "method"),
    [
        ("quantization_config", {"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes"),
        ("quantization_config", {"quant_method": "gptq", "bits": 4}, "gptq"),
        ("quantization_config", {"bits": 4}, "unknown"),
        ("compression_config", {"quant_method": "compressed-tensors"}, "compressed-tensors"),
    ],
)
def test_a_config_of_quantized_weights_is_refused(tmp_path, key, value, method):
    make_tiny_family(tmp_path, "bert")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(InputError, match=rf"{key} \(method {method}\): .*dequantized"):
        read_architecture(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", [QUERY, "classifier.bias", "bert.embeddings.word_embeddings.weight"])
def test_one_value_that_is_not_finite_is_refused_by_the_name_of_its_tensor(tmp_path, value, name):
    make_tiny_family(tmp_path, "bert")

    def spoil(tensors):
        tensors[name].view(-1)[1] = value
        return tensors

    change(tmp_path, spoil)
    with pytest.raises(FolderError, match=rf"NaN or infinite: 1 of \d+ in {name} \(in all 1 tensors"):
        load_checkpoint(tmp_path)


def test_a_double_that_is_infinite_in_fp32_is_refused(tmp_path):
    make_tiny_family(tmp_path, "bert")
    change(tmp_path, lambda tensors: tensors | {"classifier.bias": torch.full([3], 1e300, dtype=torch.float64)})
    with pytest.raises(FolderError, match=r"3 of 3 in classifier\.bias"):
        load_checkpoint(tmp_path)
