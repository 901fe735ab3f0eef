"""One teacher: any classifier that transformers opens answers as it does there."""

import json
from pathlib import Path

import numpy as np
import torch
from teaching import LABELS
from tiny import make_tiny_family, write_bpe_tokenizer
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    BartForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
)

from models.teachers.answers import answers_of
from models.teachers.teacher import open_teacher


def write_gpt2(folder: Path) -> None:
    """A family that Prunella cannot prune, with a tokenizer."""
    folder.mkdir()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = write_bpe_tokenizer(folder, special)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "model_max_length": 40}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=vocabulary, n_embd=32, n_layer=1, n_head=2, n_positions=48, pad_token_id=1,
        id2label=dict(enumerate(LABELS)), label2id={name: i for i, name in enumerate(LABELS)},
    )  # fmt: skip
    GPT2ForSequenceClassification(config).save_pretrained(folder)


def write_other(folder: Path, name: str) -> None:
    """A classifier whose model takes no token types, or whose tokenizer cannot pad, or knows no limit of tokens."""
    folder.mkdir()
    vocabulary = write_bpe_tokenizer(folder, ["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "</s>"}
    special = {"vocab_size": vocabulary, "num_labels": 3, "bos_token_id": 0, "eos_token_id": 2}
    if name == "t5":
        model = T5ForSequenceClassification(T5Config(
            **special, pad_token_id=1, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
            decoder_start_token_id=1,
        ))  # fmt: skip
    elif name == "bart":
        model = BartForSequenceClassification(BartConfig(
            **special, pad_token_id=1, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=64,
            decoder_start_token_id=2,
        ))  # fmt: skip
    else:
        sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 48}
        model = GPT2ForSequenceClassification(GPT2Config(**special, **sizes))
        if name == "gpt2-unpadded":
            tokenizer.pop("pad_token")
    tokenizer |= {"model_max_length": 512} if name.startswith("gpt2") else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    model.save_pretrained(folder)


def test_any_folder_of_transformers_teaches(given, tmp_path):
    write_gpt2(tmp_path / "gpt2")
    make_tiny_family(tmp_path / "bert", "bert")
    others = ("t5", "bart", "gpt2-unpadded", "gpt2-pads-in-the-tokenizer-only")
    torch.manual_seed(0)
    for name in others:
        write_other(tmp_path / name, name)
    rows = given.rows("train").rows
    for name in ("gpt2", "bert", *others):
        (teacher,) = open_teacher(tmp_path / name, pair=False)
        answers = answers_of(teacher, rows, given.store)
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / name).eval()
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name)
        with torch.inference_mode():
            unwanted = {"return_token_type_ids": False} if name in ("t5", "bart") else {}
            wanted = [
                model(**tokenizer(row[0], return_tensors="pt", **unwanted)).logits[0].numpy() for row in rows[:20]
            ]
        np.testing.assert_allclose(answers[:20], wanted, atol=1e-4)


def test_a_text_longer_than_the_positions_is_cut_whatever_the_tokenizer_says(tmp_path):
    write_other(tmp_path / "gpt2", "gpt2-unpadded")
    (teacher,) = open_teacher(tmp_path / "gpt2", pair=False)
    (encoded,), answer = teacher.load([("a good film " * 40,)])
    assert len(encoded.ids) <= 48
    with torch.inference_mode():
        assert np.isfinite(answer([encoded])).all()


def test_a_text_has_the_same_answer_alone_and_in_a_batch(given):
    (teacher,) = open_teacher(given.teachers["single"].path, pair=False)
    rows = given.rows("texts").rows[:40]
    together = answers_of(teacher, rows, given.store)
    alone = np.concatenate([answers_of(teacher, [row], given.store) for row in rows[:5]])
    np.testing.assert_allclose(together[:5], alone, atol=1e-5)
