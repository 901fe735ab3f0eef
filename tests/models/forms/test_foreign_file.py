"""Files that are not what their names say are refused by what they are."""

import pytest
import torch
from tiny import make_tiny_family

from models.checkpoint import load_checkpoint, read_config
from models.errors import FolderError
from models.forms.adapter import read_adapter
from models.forms.head_task import read_head_task
from models.tokenizer import Tokenizer
from models.weights import read_shapes
from prunella.cli.inspect import inspect

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 437955512\n"
PAGE = b"\n<!DOCTYPE html>\n<html><body>Not found</body></html>\n"
KINDS = {POINTER: "is a git-lfs pointer.*git lfs pull", PAGE: "is a web page.*download"}


@pytest.mark.parametrize("content", KINDS)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("read", [read_head_task, load_checkpoint])
def test_weights(tmp_path, content, name, read):
    make_tiny_family(tmp_path, "bert")
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FolderError, match=f"{name} {KINDS[content]}"):
        read(tmp_path)
    assert inspect(tmp_path)["can"] == []


@pytest.mark.parametrize("content", KINDS)
@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "sentencepiece.bpe.model"])
def test_tokenizers(tmp_path, content, name):
    make_tiny_family(tmp_path, "bert")
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FolderError, match=f"{name} {KINDS[content]}"):
        Tokenizer.open(tmp_path, 40)


@pytest.mark.parametrize("content", KINDS)
def test_configs_and_adapters(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(FolderError, match=f"config.json {KINDS[content]}"):
        read_config(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(FolderError, match=KINDS[content]):
        read_adapter(tmp_path)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_file_of_torch_that_is_named_safetensors(tmp_path, is_zip):
    model = make_tiny_family(tmp_path, "bert")
    torch.save(model, tmp_path / "model.safetensors", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(FolderError, match=r"is a file of torch\.save, not of safetensors"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("length", [640, 896, 1152])
def test_a_header_whose_length_begins_as_a_pickle_is_no_pickle(tmp_path, length):
    path = tmp_path / "model.safetensors"
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(length)
    path.write_bytes(length.to_bytes(8, "little") + header + b"\0" * 4)
    assert read_shapes(tmp_path) == {"a": (1,)}
