"""train_wordpiece(): trains a WordPiece tokenizer like BERT's on text files; Vocabulary: its ids for pretraining.

A word is split into the longest pieces in the vocabulary; pieces inside a word begin with `##`. The vocabulary is
built by merging the most frequent pairs of adjacent pieces (Sennrich et al. 2016), as the `tokenizers` library does.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer

from models import tokenizer as tokenizer_file
from models.errors import InputError
from models.pretraining.paragraphs import read_paragraphs

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
OTHER_NAMES = {"[PAD]": "<pad>", "[UNK]": "<unk>", "[CLS]": "<s>", "[SEP]": "</s>", "[MASK]": "<mask>"}
INSIDE = "##"  # prefix of a piece that does not begin a word
ALPHABET = 1000  # maximum number of characters; texts from the web contain thousands that occur a few times


def train_wordpiece(files: Sequence[Path], size: int, lowercase: bool) -> tokenizers.Tokenizer:
    """Return a tokenizer whose vocabulary has `size` pieces, or fewer if the texts do not have as many.

    The same files give the same vocabulary. The library's trainer alone is not deterministic: it numbers the `##`
    characters in the order of a hash map, and these numbers break ties. So they are numbered before it starts.

    Args:
        files: `.txt` or `.jsonl` files, see models/pretraining/paragraphs.py.
        size: number of pieces, including special tokens.
        lowercase: whether case and accents are removed.

    Raises:
        InputError: the files cannot be read, or `size` leaves no room for pieces besides the characters.
    """
    tokenizer = _without_special_tokens(WordPiece(unk_token="[UNK]"), lowercase)
    characters = _alphabet(files, tokenizer, min(ALPHABET, size // 4))
    inside = [INSIDE + character for character in characters if _continues_words(character, tokenizer)]
    numbered_first = [*SPECIAL, *characters, *inside]
    if not characters or size <= len(numbered_first):
        raise InputError(
            f"a vocabulary of {size} leaves no room beside {len(numbered_first)} characters and special tokens: "
            "choose a larger one"
        )
    trainer = WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=numbered_first,
        initial_alphabet=characters,
        limit_alphabet=len(characters),
        show_progress=False,  # read_paragraphs() shows a progress bar
    )
    tokenizer.train_from_iterator((p.text for p in read_paragraphs(files, "learn the vocabulary")), trainer)
    return _with_special_tokens(WordPiece(tokenizer.get_vocab(), unk_token="[UNK]"), lowercase)


def open_backend(folder: Path) -> tokenizers.Tokenizer:
    """Return the tokenizer of a folder, without truncation and padding; `[SEP]` in a text is five characters.

    Raises:
        FolderError: there is no `tokenizer.json`, or it is not a tokenizer file.
    """
    backend = tokenizer_file.read_backend(folder)
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # a text must not contain special tokens
    return backend


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Ids of the special tokens and of the pieces inside words; ids that are not special are `ordinary`."""

    size: int
    pad: int
    unknown: int | None
    cls: int
    sep: int
    mask: int
    special: NDArray[np.bool_]  # (size,)
    inside: NDArray[np.bool_]  # (size,): begins with ##, so it continues the word of the token before
    ordinary: NDArray[np.int64]  # ids that are not special

    @classmethod
    def of(cls, tokenizer: tokenizers.Tokenizer) -> "Vocabulary":
        """Return the ids that masking and packing need from a tokenizer.

        Raises:
            InputError: the tokenizer has no [PAD], [CLS], [SEP] or [MASK] token.
        """
        all_ids = tokenizer.get_vocab(with_added_tokens=True)
        listed = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        ids: dict[str, Any] = {name: _id_of(name, all_ids, listed) for name in SPECIAL}
        missing = [name for name, number in ids.items() if number is None and name != "[UNK]"]
        if missing:
            raise InputError(f"the tokenizer has no {', '.join(missing)}: pretraining on masked tokens needs them")
        size = max(all_ids.values()) + 1
        special, inside = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
        added = [number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special]
        special[[*added, *(number for number in ids.values() if number is not None)]] = True
        inside[[number for name, number in all_ids.items() if name.startswith(INSIDE) and name != INSIDE]] = True
        ordinary = np.setdiff1d(np.fromiter(all_ids.values(), np.int64), np.flatnonzero(special))
        pad, unknown, cls_id, sep, mask = (ids[name] for name in SPECIAL)
        return cls(size, pad, unknown, cls_id, sep, mask, special, inside & ~special, ordinary)


def _id_of(name: str, ids: Mapping[str, int], added: Collection[str]) -> int | None:
    """Return the id of a special token; with both of its names, of the one that is an added token (MPNet)."""
    names = [one for one in (name, OTHER_NAMES[name]) if one in ids]
    return ids[min(names, key=lambda one: one not in added)] if names else None


def _without_special_tokens(model: WordPiece, lowercase: bool) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def _with_special_tokens(model: WordPiece, lowercase: bool) -> tokenizers.Tokenizer:
    tokenizer = _without_special_tokens(model, lowercase)
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
    for character, count in raw.items():  # the normalizer treats each character separately
        for normal in tokenizer.normalizer.normalize_str(character):
            if not normal.isspace():
                counts[normal] += count
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    return sorted(ranked[:limit])


def _continues_words(character: str, tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether the character can continue a word; punctuation and Chinese characters are words of their own."""
    text = tokenizer.normalizer.normalize_str(f"a{character}")
    return len(tokenizer.pre_tokenizer.pre_tokenize_str(text)) == 1
