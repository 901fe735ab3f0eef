"""The padding token inside a text: RoBERTa and MPNet count no position for it, here and in the graphs."""

import itertools
import json

import numpy as np
import pytest
import torch
from tiny import TINY_FAMILIES, make_tiny_family

from compress.inputs.source import open_source
from compress.quantization.quantize import int8_variant
from compress.vocabulary.subset import kept_for_padding, read_tokenizer, trim_model, trim_tokenizer
from export.fused_operators import check_fused, check_half
from export.graph_precision import Precision
from export.writer import to_onnx, write_fp16, write_int8
from models.checkpoint import load_checkpoint, save_checkpoint
from models.classifier import TensorBatch
from models.task import Task
from models.tokenizer import Tokenizer
from service.model.engine import run_session
from service.model.session import open_session
from tools.random_models import write_xlm_tokenizer
from tools.studies.folder_forms import change_config

TEXTS = [
    "the {0} film was good", "{0}", "a dull story", "{0} so {0}{0} weak </s> <mask> it", "good {0}",
    "[PAD] the [SEP] film [MASK]",
]  # fmt: skip
COUNTED = ("roberta", "xlm-roberta", "mpnet")


def rows_of(family, pair=False):
    padding = "<pad>" if family in COUNTED else "[PAD]"
    texts = [text.format(padding) for text in TEXTS]
    return list(itertools.pairwise(texts)) if pair else [(text,) for text in texts]


def make(folder, family, **changes):
    theirs = make_tiny_family(folder, family, **changes)
    assert theirs.config.pad_token_id is not None
    return theirs


def answers_of(theirs, tokenizer, rows):
    """The logits of transformers, one text at a time, with a mask of ones."""
    answers = []
    for encoded in tokenizer.encode(rows):
        typed = getattr(theirs.config, "type_vocab_size", 0) > 1
        types = {"token_type_ids": torch.tensor([encoded.types])} if typed else {}
        ids = torch.tensor([encoded.ids])
        answers.append(theirs(ids, attention_mask=torch.ones_like(ids), **types).logits)
    return torch.cat(answers)


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize(
    ("family", "changes"),
    [*((family, {}) for family in TINY_FAMILIES), ("roberta", {"pad_token_id": 3}), ("roberta", {"pad_token_id": 0}),
     ("xlm-roberta", {"tokenizer": write_xlm_tokenizer})],
)  # fmt: skip
@torch.no_grad()
def test_answers_equal_transformers_alone_and_in_a_batch(tmp_path, family, changes, pair):
    theirs = make(tmp_path / "in", family, **changes)
    rows = rows_of(family, pair)
    opened = open_source(tmp_path / "in", tmp_path / "store", pair, max_tokens=40).path
    tokenizer, model = Tokenizer.open(opened, 40), load_checkpoint(opened)
    wanted = answers_of(theirs, tokenizer, rows)
    torch.testing.assert_close(model(TensorBatch(tokenizer.batch(rows)))[0], wanted, atol=1e-5, rtol=1e-5)
    for row, one in zip(rows, wanted, strict=True):
        found = model(TensorBatch(tokenizer.batch([row])))[0][0]
        torch.testing.assert_close(found, one, atol=1e-5, rtol=1e-5)
    (tmp_path / "saved").mkdir()
    save_checkpoint(model, Task(labels=("a", "b", "c")), tmp_path / "saved")
    saved = type(theirs).from_pretrained(tmp_path / "saved", attn_implementation="eager").eval()
    torch.testing.assert_close(answers_of(saved, tokenizer, rows), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", COUNTED)
@torch.no_grad()
def test_every_graph_counts_as_the_model_does(tmp_path, family):
    make(tmp_path, family)
    tokenizer, model, rows = Tokenizer.open(tmp_path, 40), load_checkpoint(tmp_path), rows_of(family)
    batch = tokenizer.batch(rows)
    wanted = model(TensorBatch(batch))[0].numpy()
    precision = Precision.all_int8(model.architecture)
    to_onnx(model, tmp_path / "fp32.onnx", pair=False)
    write_int8(model, tmp_path / "int8.onnx", False, None, precision)
    write_fp16(model, tmp_path / "fp16.onnx", pair=False)
    check_fused(tmp_path / "fp32.onnx", model.architecture, Precision.all_fp32(model.architecture), static=False)
    check_fused(tmp_path / "int8.onnx", model.architecture, precision, static=False)
    check_half(tmp_path / "fp16.onnx", model.architecture)
    fp32 = open_session(tmp_path / "fp32.onnx")
    int8 = open_session(tmp_path / "int8.onnx", variant=int8_variant("dynamic"))
    np.testing.assert_allclose(run_session(fp32, batch), wanted, atol=1e-4)
    alone = [run_session(fp32, tokenizer.batch([row]))[0] for row in rows]
    np.testing.assert_allclose(np.stack(alone), wanted, atol=1e-4)
    assert np.abs(run_session(int8, batch) - wanted).max() < 0.3


@pytest.mark.parametrize("family", COUNTED)
@torch.no_grad()
def test_a_trimmed_model_counts_as_before(tmp_path, family):
    make(tmp_path, family)
    before, model, rows = Tokenizer.open(tmp_path, 24), load_checkpoint(tmp_path), rows_of(family)
    used = {i for encoded in before.encode(rows) for i in encoded.ids}
    trimmed = trim_tokenizer(read_tokenizer(tmp_path), used | kept_for_padding(model.architecture))
    smaller = trim_model(model, trimmed.kept_ids, 24)
    (tmp_path / "tokenizer.json").write_text(json.dumps(trimmed.document), encoding="utf-8")
    after = Tokenizer.open(tmp_path, 24)
    assert torch.equal(smaller(TensorBatch(after.batch(rows)))[0], model(TensorBatch(before.batch(rows)))[0])


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@torch.no_grad()
def test_a_config_without_a_padding_id_opens(tmp_path, family):
    theirs = make_tiny_family(tmp_path, family)
    tokenizer, rows = Tokenizer.open(tmp_path, 40), rows_of(family)
    wanted = answers_of(theirs, tokenizer, rows)
    change_config(tmp_path, pad_token_id=None)
    opened = open_source(tmp_path, tmp_path / "store", max_tokens=40).path
    found = load_checkpoint(opened)(TensorBatch(tokenizer.batch(rows)))[0]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["<|padding|>", "<|endoftext|>", "of"])
@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "deberta-v2"])
@torch.no_grad()
def test_a_padding_token_of_any_name_changes_no_answer(tmp_path, family, name):
    """With "of" there is none: the tokenizer_config.json names no padding token either."""
    theirs, rows = make_tiny_family(tmp_path, family), rows_of(family)[2:5]
    file = tmp_path / "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    for usual in ("[PAD]", "<pad>"):
        text = text.replace(f'"{usual}"', json.dumps(name if name != "of" else "##pad##"))
    file.write_text(text, encoding="utf-8")
    named = {} if name == "of" else {"pad_token": name}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]" if "[UNK]" in text else "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | named))
    opened = open_source(tmp_path, tmp_path / "store", max_tokens=40).path
    tokenizer, model = Tokenizer.open(opened, 40), load_checkpoint(opened)
    wanted = answers_of(theirs, tokenizer, rows)
    torch.testing.assert_close(model(TensorBatch(tokenizer.batch(rows)))[0], wanted, atol=1e-5, rtol=1e-5)
