"""train_wordpiece(): text files → a WordPiece tokenizer like BERT's, and Vocabulary: what pretraining asks of one.

A word is split into the longest pieces that the vocabulary has; pieces inside a word begin with `##`. The pieces
are found by merging the most frequent neighbours (Sennrich et al. 2016), as the `tokenizers` library does it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer

from models import tokens
from models.data.paragraphs import read_paragraphs
from models.errors import InputError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
OTHER_NAMES = {"[PAD]": "<pad>", "[UNK]": "<unk>", "[CLS]": "<s>", "[SEP]": "</s>", "[MASK]": "<mask>"}
INSIDE = "##"  # begins a piece that does not begin a word
ALPHABET = 1000  # most characters kept; texts from the web hold thousands that occur a few times


def train_wordpiece(files: Sequence[Path], size: int, lowercase: bool) -> tokenizers.Tokenizer:
    """Return a tokenizer whose vocabulary has `size` pieces, or fewer where the texts do not give as many.

    The same files give the same vocabulary. By itself the library's trainer does not: it numbers the `##` characters
    in the order of a hash map, and these numbers break ties. So they are numbered before it begins.

    Args:
        files: `.txt` or `.jsonl` files, see models/data/paragraphs.py.
        size: pieces wanted, special tokens included.
        lowercase: whether case and accents are dropped.

    Raises:
        InputError: the files cannot be read, or `size` leaves no room beside the characters.
    """
    bare = _bare(WordPiece(unk_token="[UNK]"), lowercase)
    characters = _alphabet(files, bare, min(ALPHABET, size // 4))
    inside = [INSIDE + character for character in characters if _continues_words(character, bare)]
    numbered_first = [*SPECIAL, *characters, *inside]
    if not characters or size <= len(numbered_first):
        raise InputError(
            f"a vocabulary of {size} leaves no room beside {len(numbered_first)} characters and special tokens: "
            "ask for more"
        )
    trainer = WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=numbered_first,
        initial_alphabet=characters,
        limit_alphabet=len(characters),
        show_progress=False,  # the reading shows a bar
    )
    bare.train_from_iterator((p.text for p in read_paragraphs(files, "learn the vocabulary")), trainer)
    return _finished(WordPiece(bare.get_vocab(), unk_token="[UNK]"), lowercase)


def open_backend(folder: Path) -> tokenizers.Tokenizer:
    """Return the tokenizer of a folder, set to neither cut nor pad, and to take `[SEP]` in a text for five letters.

    Raises:
        FolderError: there is no `tokenizer.json`, or it is not a tokenizer file.
    """
    backend = tokens.read_backend(folder)
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # a text must not mask or end itself
    return backend


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The ids that have a meaning of their own; all others are `ordinary`."""

    size: int
    pad: int
    unknown: int | None
    cls: int
    sep: int
    mask: int
    special: NDArray[np.bool_]  # (size,)
    inside: NDArray[np.bool_]  # (size,): begins with ##, so it belongs to the token before
    ordinary: NDArray[np.int64]  # ids that are not special

    @classmethod
    def of(cls, tokenizer: tokenizers.Tokenizer) -> "Vocabulary":
        """Return what masking and packing ask of a tokenizer.

        Raises:
            InputError: it lacks a padding, first, separating or mask token.
        """
        named = tokenizer.get_vocab(with_added_tokens=True)
        ids = {name: named.get(name, named.get(OTHER_NAMES[name])) for name in SPECIAL}
        missing = [name for name, number in ids.items() if number is None and name != "[UNK]"]
        if missing:
            raise InputError(f"the tokenizer has no {', '.join(missing)}: pretraining on masked tokens needs them")
        size = max(named.values()) + 1
        special, inside = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
        added = [number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special]
        special[[*added, *(number for number in ids.values() if number is not None)]] = True
        inside[[number for name, number in named.items() if name.startswith(INSIDE) and name != INSIDE]] = True
        ordinary = np.setdiff1d(np.fromiter(named.values(), np.int64), np.flatnonzero(special))
        pad, unknown, first, sep, mask = (ids[name] for name in SPECIAL)
        return cls(size, pad, unknown, first, sep, mask, special, inside & ~special, ordinary)


def _bare(model: WordPiece, lowercase: bool) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def _finished(model: WordPiece, lowercase: bool) -> tokenizers.Tokenizer:
    tokenizer = _bare(model, lowercase)
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    tokenizer.decoder = WordPieceDecoder(prefix=INSIDE)
    return tokenizer


def _alphabet(files: Sequence[Path], tokenizer: tokenizers.Tokenizer, limit: int) -> list[str]:
    """Return the `limit` most frequent characters after normalization, in the order of their code points."""
    raw: Counter[str] = Counter()
    for paragraph in read_paragraphs(files, "count the characters"):
        raw.update(paragraph.text)
    counts: Counter[str] = Counter()
    for character, count in raw.items():  # the normalizer works character by character
        for normal in tokenizer.normalizer.normalize_str(character):
            if not normal.isspace():
                counts[normal] += count
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    return sorted(ranked[:limit])


def _continues_words(character: str, tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether a word can go on with it; punctuation and Chinese characters stand alone."""
    together = tokenizer.normalizer.normalize_str(f"a{character}")
    return len(tokenizer.pre_tokenizer.pre_tokenize_str(together)) == 1
