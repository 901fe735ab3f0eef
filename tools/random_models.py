"""Random classifiers of every family, with real tokenizers: built, never downloaded. Tests and studies use them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel, Metaspace
from tokenizers.processors import RobertaProcessing, TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

GOOD = ["good", "fine", "great", "nice", "lovely", "bright", "warm"]
BAD = ["bad", "poor", "awful", "dull", "cold", "dreary", "weak"]
OTHER = ["the", "film", "a", "story", "of", "was", "and", "it", "in", "with", "very", "so", "music", "plot", "scene"]


def write_tokenizer(folder: Path) -> int:
    """Write BERT's kind: word pieces, two segments. Return the number of tokens, as the functions below do."""
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


def write_bpe_tokenizer(folder: Path, special: list[str]) -> int:
    """Write a byte-level one, without segments, as that of RoBERTa is. `special`: first, pad, last, and others."""
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
    """Write one with two segments, as that of DeBERTa-v3 is."""
    processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return _write_unigram(folder, ["[PAD]", "[CLS]", "[SEP]", "[UNK]"], "[MASK]", processor)


def write_xlm_tokenizer(folder: Path) -> int:
    """Write one without segments, as that of XLM-R is."""
    return _write_unigram(
        folder, ["<s>", "<pad>", "</s>", "<unk>"], "<mask>", RobertaProcessing(("</s>", 2), ("<s>", 0))
    )


def write_camembert_tokenizer(folder: Path) -> int:
    """Write CamemBERT's, whose first and last token are not where those of RoBERTa are."""
    special = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"]
    return _write_unigram(folder, special, "<mask>", RobertaProcessing(("</s>", 6), ("<s>", 5)))


def _write_unigram(folder: Path, special: list[str], mask: str, processor: Any) -> int:
    """Write a Unigram tokenizer; the fourth special token is the unknown one."""
    pieces = dict.fromkeys([*special, *"abcdefghijklmnopqrstuvwxyz▁"], -9.0)
    pieces |= {f"▁{word}": -5.0 for word in (*GOOD, *BAD, *OTHER)} | {mask: 0.0}
    tokenizer = Tokenizer(Unigram(list(pieces.items()), unk_id=3))
    tokenizer.pre_tokenizer = Metaspace()
    tokenizer.add_special_tokens([*special, mask])
    tokenizer.post_processor = processor
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer.get_vocab_size()


BERT_SIZES: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
    "max_position_embeddings": 48,
}  # fmt: skip
ROBERTA_SIZES: dict[str, Any] = BERT_SIZES | {"type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5}
MODERN_SIZES: dict[str, Any] = BERT_SIZES | {
    # layers: global, local, local, global; a local one sees two tokens on each side
    "num_hidden_layers": 4, "local_attention": 4, "reference_compile": False,
    "cls_token_id": 0, "bos_token_id": 0, "pad_token_id": 1, "sep_token_id": 2, "eos_token_id": 2,
}  # fmt: skip
TINY_FAMILIES: dict[str, dict[str, Any]] = {
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


def make_tiny_family(
    folder: Path, family: str, labels: int = 3, tokenizer: Callable[[Path], int] | None = None, **changes: Any
) -> PreTrainedModel:
    """Write a random classifier of a family and return the transformers model, with eager attention.

    Args:
        folder: where the model and its tokenizer are written.
        family: a key of TINY_FAMILIES.
        labels: number of labels.
        tokenizer: writes the tokenizer and returns its number of tokens; None: that of the family.
        changes: settings of the family's config in place of those of TINY_FAMILIES.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = (tokenizer or partial(write_tokenizer_of, family=family))(folder)
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


def write_tokenizer_of(folder: Path, family: str) -> int:
    """Write a tokenizer of the kind that the family usually has."""
    if "roberta" in family:
        return write_bpe_tokenizer(folder, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    if family == "modernbert":
        return write_bpe_tokenizer(folder, ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"])
    writers = {"mpnet": write_mpnet_tokenizer, "deberta-v2": write_unigram_tokenizer}
    return writers.get(family, write_tokenizer)(folder)
