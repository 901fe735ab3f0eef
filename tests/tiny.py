"""A tiny random BERT folder with a real tokenizer: built, never downloaded."""

from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification

from models.data.texts import Texts
from tools.random_models import (  # noqa: F401  # tests import all of them from here
    BAD,
    GOOD,
    OTHER,
    TINY_FAMILIES,
    make_tiny_family,
    write_bpe_tokenizer,
    write_mpnet_tokenizer,
    write_tokenizer,
)  # fmt: skip


def make_tiny_checkpoint(folder: Path, labels: int = 2, layers: int = 2, seed: int = 0):
    """Write a random BertForSequenceClassification and return the transformers model."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = write_tokenizer(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=64, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=96, max_position_embeddings=48, num_labels=labels,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():  # the default initialization gives nearly constant answers, which hide mistakes
        for name, parameter in model.named_parameters():
            parameter.normal_(mean=1.0 if "LayerNorm.weight" in name else 0.0, std=0.15)
    model.save_pretrained(folder)
    return model


def tiny_texts(count: int = 64, pair: bool = False) -> Texts:
    rows, labels = [], []
    for i in range(count):
        words = (GOOD if i % 2 else BAD)[i % 7 :][:2] or ["so"]
        text = " ".join([*OTHER[i % 9 : i % 9 + i % 5], (GOOD if i % 2 else BAD)[i % 7], *words])
        rows.append((text, OTHER[i % 13]) if pair else (text,))
        labels.append("positive" if i % 2 else "negative")
    return Texts(rows, labels, "tiny")
