"""WordPiece cache: token ids of plain ASCII texts from a table of known words, for tokenizers of BERT's kind.

Such a tokenizer splits ASCII text at spaces and punctuation and then tokenizes each word independently. The result of
the `tokenizers` library for a word never changes, and a look-up takes a quarter of the time.
"""

import re

from models.tokenizer import Encoded, Tokenizer

WORD = re.compile(r"[A-Za-z0-9]+|[^A-Za-z0-9 ]")  # BERT's pre-tokenizer on printable ASCII: each sign is a word
MOST_WORDS = 20_000  # in the table; about 5 MB
LONGEST_WORD = 40  # characters: longer words are not stored
LONGEST_TEXT = 2000  # characters: longer texts are left to the tokenizer
PROBE = "a"
NEVER = "\0"  # is in no printable text


class WordPieceCache:
    """Cache in front of a tokenizer. Thread-safe: every thread stores the same ids for a word."""

    def __init__(self, tokenizer: Tokenizer, marker: str) -> None:
        self._tokenizer, self._marker = tokenizer, marker
        self._ids: dict[str, list[int]] = {}
        encoded, (probe_ids,) = tokenizer.encode([(PROBE,)])[0], tokenizer.pieces([PROBE])
        start = encoded.ids.index(probe_ids[0])
        self._prefix, self._suffix = encoded.ids[:start], encoded.ids[start + len(probe_ids) :]  # special tokens
        self._end = tokenizer.max_tokens - len(self._suffix)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "WordPieceCache | None":
        """Return a cache for the tokenizer, or None where it is not of BERT's kind."""
        parts = tokenizer.parts()
        kinds = [*((parts[part] or {}).get("type") for part in ("normalizer", "pre_tokenizer")), parts["model"]]
        if kinds != ["BertNormalizer", "BertPreTokenizer", "WordPiece"]:
            return None
        markers = {token["content"][:1] for token in parts["added_tokens"]} or {NEVER}
        marker = markers.pop()  # first character of added tokens such as [MASK], which a text may contain verbatim
        if markers or marker.isalnum() or any(tokenizer.encode([(PROBE,)])[0].types):
            return None
        return cls(tokenizer, marker)

    def encode(self, text: str) -> Encoded | None:
        """Tokenize a single text, truncated on the right; None where the tokenizer itself is needed."""
        if len(text) > LONGEST_TEXT or not text.isascii() or not text.isprintable() or self._marker in text:
            return None
        ids, known = self._prefix.copy(), self._ids
        for word in WORD.findall(text):
            ids += known.get(word) or self._look_up(word)
        del ids[self._end :]
        ids += self._suffix
        return Encoded(ids, [0] * len(ids))

    def _look_up(self, word: str) -> list[int]:
        (ids,) = self._tokenizer.pieces([word])
        if len(word) <= LONGEST_WORD:
            if len(self._ids) >= MOST_WORDS:
                self._ids.clear()  # the words of current traffic are added again first
            self._ids[word] = ids
        return ids
