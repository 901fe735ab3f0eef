"""A tiny random BERT folder with a real tokenizer: built, never downloaded."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel, Metaspace
from tokenizers.processors import RobertaProcessing, TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from models.data.texts import Texts

GOOD = ["good", "fine", "great", "nice", "lovely", "bright", "warm"]
BAD = ["bad", "poor", "awful", "dull", "cold", "dreary", "weak"]
OTHER = ["the", "film", "a", "story", "of", "was", "and", "it", "in", "with", "very", "so", "music", "plot", "scene"]


def write_tokenizer(folder: Path) -> int:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *OTHER]
    words += [f"{prefix}{letter}" for prefix in ("", "##") for letter in "abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return len(vocabulary)


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


def write_bpe_tokenizer(folder: Path, special: list[str]) -> int:
    """Write a byte-level one, without segments, as RoBERTa's and ModernBERT's are. `special`: first, pad, last, …"""
    tokenizer = Tokenizer(BPE(unk_token=special[3]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True)
    words = [f"{word} {other}" for word in (*GOOD, *BAD) for other in OTHER]
    alphabet = ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        words, BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    first, last = special[0], special[2]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{first} $A {last}", pair=f"{first} $A {last} {last} $B:0 {last}:0",
        special_tokens=[(first, 0), (last, 2)],
    )  # fmt: skip
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer.get_vocab_size()


def write_mpnet_tokenizer(folder: Path) -> int:
    """Write MPNet's: BERT's words, of which [CLS], [PAD] and [MASK] are unused, between its own special tokens."""
    write_tokenizer(folder)
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    first, unused = ["<s>", "<pad>", "</s>", "<unk>"], sorted(backend.get_vocab().items(), key=lambda item: item[1])
    words = [*first, *(word for word, _ in unused), "<mask>"]
    backend.model = WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]")
    backend.add_special_tokens([*first, "[UNK]", "<mask>"])
    backend.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
    backend.save(str(folder / "tokenizer.json"))
    return len(words)


def write_unigram_tokenizer(folder: Path) -> int:
    """Write one with two segments, as DeBERTa-v3's is."""
    pieces = dict.fromkeys(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz▁"], -9.0)
    pieces |= {f"▁{word}": -5.0 for word in (*GOOD, *BAD, *OTHER)} | {"[MASK]": 0.0}
    tokenizer = Tokenizer(Unigram(list(pieces.items()), unk_id=3))
    tokenizer.pre_tokenizer = Metaspace()
    tokenizer.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"])
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer.get_vocab_size()


BERT_SIZES = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
    "max_position_embeddings": 48,
}  # fmt: skip
ROBERTA_SIZES = BERT_SIZES | {"type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5}
MODERN_SIZES = BERT_SIZES | {
    # layers: global, local, local, global; a local one sees two tokens on each side
    "num_hidden_layers": 4, "local_attention": 4, "reference_compile": False,
    "cls_token_id": 0, "bos_token_id": 0, "pad_token_id": 1, "sep_token_id": 2, "eos_token_id": 2,
}  # fmt: skip
TINY_FAMILIES = {
    "bert": BERT_SIZES,
    "ernie": BERT_SIZES | {"use_task_id": True},
    "roberta": ROBERTA_SIZES,
    "xlm-roberta": ROBERTA_SIZES,
    "mpnet": BERT_SIZES | {"pad_token_id": 1, "layer_norm_eps": 1e-5, "max_position_embeddings": 50},
    "distilbert": {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96, "max_position_embeddings": 48},
    "electra": BERT_SIZES | {"embedding_size": 32},
    "modernbert": MODERN_SIZES,
    "deberta-v2": BERT_SIZES | {  # as v3, with so few buckets that a text of 10 tokens has logarithmic ones
        "type_vocab_size": 0, "relative_attention": True, "position_buckets": 8, "pos_att_type": "p2c|c2p",
        "share_att_key": True, "norm_rel_ebd": "layer_norm", "position_biased_input": False, "layer_norm_eps": 1e-7,
    },
}  # fmt: skip


def make_tiny_family(folder: Path, family: str, labels: int = 3, **changes):
    """Write a random classifier of a family and return the transformers model, with eager attention."""
    folder.mkdir(parents=True, exist_ok=True)
    if "roberta" in family:
        vocabulary = write_bpe_tokenizer(folder, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    elif family == "mpnet":
        vocabulary = write_mpnet_tokenizer(folder)
    elif family == "modernbert":
        vocabulary = write_bpe_tokenizer(folder, ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"])
    elif family == "deberta-v2":
        vocabulary = write_unigram_tokenizer(folder)
    else:
        vocabulary = write_tokenizer(folder)
    torch.manual_seed(0)
    settings = TINY_FAMILIES[family] | {"vocab_size": vocabulary, "num_labels": labels} | changes
    config = AutoConfig.for_model(family, **settings)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = "norm" in name.lower() and name.endswith("weight")
            parameter.normal_(mean=1.0 if is_norm else 0.0, std=0.15)
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
