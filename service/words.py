"""Words: text → token ids from a table of words seen before, for plain ASCII texts and BERT's tokenizers.

A WordPiece tokenizer of BERT's kind splits ASCII text at spaces and punctuation, and each word by itself. What the
`tokenizers` library said of a word once is what it will say again, and looking it up takes a quarter of the time.
"""

import re

from models.tokens import Encoded, Tokenizer

WORD = re.compile(r"[A-Za-z0-9]+|[^A-Za-z0-9 ]")  # BERT's splitter on printable ASCII: every sign is a word
MOST_WORDS = 20_000  # kept; about 5 MB
LONGEST_WORD, LONGEST_TEXT = 40, 2000  # characters of what is kept and of what is looked up
PROBE = "a"
NEVER = "\0"  # is in no printable text


class Words:
    """A table in front of a tokenizer. Threads may share it: they only read and add what is equal for all."""

    def __init__(self, tokenizer: Tokenizer, mark: str) -> None:
        self._tokenizer, self._mark = tokenizer, mark
        self._ids: dict[str, list[int]] = {}
        whole, (inner,) = tokenizer.encode([(PROBE,)])[0], tokenizer.pieces([PROBE])
        at = whole.ids.index(inner[0])
        self._before, self._after = whole.ids[:at], whole.ids[at + len(inner) :]
        self._end = tokenizer.max_tokens - len(self._after)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Words | None":
        """Return the table, or None where the tokenizer is of another make."""
        made = tokenizer.parts()
        kinds = [*((made[part] or {}).get("type") for part in ("normalizer", "pre_tokenizer")), made["model"]]
        if kinds != ["BertNormalizer", "BertPreTokenizer", "WordPiece"]:
            return None
        marks = {token["content"][:1] for token in made["added_tokens"]} or {NEVER}
        mark = marks.pop()  # with which tokens begin that may stand in a text as they are, such as [MASK]
        if marks or mark.isalnum() or any(tokenizer.encode([(PROBE,)])[0].types):
            return None
        return cls(tokenizer, mark)

    def encode(self, text: str) -> Encoded | None:
        """Return a single text as tokens, cut on the right; None where only the tokenizer knows."""
        if len(text) > LONGEST_TEXT or not text.isascii() or not text.isprintable() or self._mark in text:
            return None
        ids, known = self._before.copy(), self._ids
        for word in WORD.findall(text):
            ids += known.get(word) or self._look_up(word)
        del ids[self._end :]
        ids += self._after
        return Encoded(ids, [0] * len(ids))

    def _look_up(self, word: str) -> list[int]:
        (ids,) = self._tokenizer.pieces([word])
        if len(word) <= LONGEST_WORD:
            if len(self._ids) >= MOST_WORDS:
                self._ids.clear()  # whatever filled it, the words of today come back first
            self._ids[word] = ids
        return ids
