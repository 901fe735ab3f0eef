"""EncodedTexts: texts together with their tokens, so that a data set is tokenized only once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from models.tokenizer import Encoded, Row, Tokenizer


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """Token ids and lengths of rows, in their order."""

    tokens: list[Encoded]
    lengths: list[int]  # tokens of each row, special tokens included

    @classmethod
    def of(cls, rows: Sequence[Row], tokenizer: Tokenizer) -> Self:
        """Tokenize the rows."""
        tokens = tokenizer.encode(rows)
        return cls(tokens, [len(row.ids) for row in tokens])

    def __len__(self) -> int:
        return len(self.tokens)
