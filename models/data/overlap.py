"""row_key() and without(): rows that are the same apart from case, punctuation and spaces."""

import re
import unicodedata
from collections.abc import Iterable

from models.data.texts import Texts
from models.tokenizer import Row


def row_words(row: Row) -> list[str]:
    """Return the words of a row, in lower case and without punctuation."""
    return re.findall(r"\w+", unicodedata.normalize("NFKC", " ".join(row)).casefold())


def row_key(row: Row) -> str:
    """Return the words of a row as one string; of a row without words, its text without spaces."""
    return " ".join(row_words(row)) or "".join(" ".join(row).split())


def without(texts: Texts, others: Iterable[Row]) -> Texts:
    """Return the rows of `texts` that are not among `others`, apart from case, punctuation and spaces."""
    keys = {row_key(row) for row in others}
    kept = [i for i, row in enumerate(texts.rows) if row_key(row) not in keys]
    return texts if len(kept) == len(texts) else texts.take(kept)
