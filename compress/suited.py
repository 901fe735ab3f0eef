"""check_texts(): refuses texts that a model cannot be calibrated or judged on; made_up_texts(): words for checks."""

import unicodedata
from pathlib import Path

import numpy as np

from models.data.texts import Texts
from models.errors import InputError
from models.task import Task
from models.tokens import Row, Tokenizer, read_backend

LOOKED_AT = 256  # rows
UNKNOWN = ("[UNK]", "<unk>")
MOST_UNKNOWN = 0.2  # share of unknown tokens; SST-2 and AG News have none, tweets with emoji about 0.02
# Tokens a letter. A text in the vocabulary's own language has about 0.25; cut into letters it has 1, or more where a
# letter is several bytes. Scripts without spaces have about a token a character in their own vocabulary, too.
MOST_PIECES, MOST_PIECES_UNSPACED = 0.7, 1.5
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI")


def check_texts(texts: Texts, task: Task, folder: Path, what: str) -> None:
    """Refuse texts that are no text, of another kind than the task's, or in another language than the vocabulary.

    Args:
        texts: the rows.
        task: of the model.
        folder: of the model; its tokenizer is looked at.
        what: what the texts are for, for people.

    Raises:
        InputError: in each of these cases.
    """
    if texts.pair != task.pair:
        found, wanted = ("pairs", "single texts") if texts.pair else ("single texts", "pairs")
        raise InputError(f"{texts.source}: the {what} rows are {found}, and the model takes {wanted}")
    rows = texts.rows[:LOOKED_AT]
    letters = "".join(part for row in rows for part in row)
    count = sum(not c.isspace() for c in letters)
    if not count:
        raise InputError(f"{texts.source}: the {what} rows hold no text: wanted texts like those that will be served")
    backend = read_backend(folder)
    unknown = {backend.token_to_id(token) for token in UNKNOWN} - {None}
    special = len(Tokenizer(backend, task.max_tokens).encode([("", "") if task.pair else ("",)])[0].ids)
    encoded = Tokenizer(backend, 1_000_000).encode(rows)
    pieces = np.array([len(e.ids) - special for e in encoded]).sum()
    lost = sum(i in unknown for e in encoded for i in e.ids) / max(int(pieces), 1)
    unspaced = sum(unicodedata.name(c, "").startswith(UNSPACED) for c in letters) / count
    most = MOST_PIECES_UNSPACED if unspaced > 0.5 else MOST_PIECES
    if lost > MOST_UNKNOWN or pieces / count > most:
        raise InputError(
            f"{texts.source}: the {what} rows are not in the language of the model's vocabulary: {lost:.0%} of their "
            f"tokens are unknown, and there are {pieces / count:.2f} tokens a character"
        )


def made_up_texts(folder: Path, pair: bool, count: int = 16) -> Texts:
    """Return rows of random words of a tokenizer's vocabulary: enough for conversions that round nothing."""
    names = sorted(read_backend(folder).get_vocab())
    words = [word for name in names if (word := name.strip("Ġ▁")).isalpha()] or names
    draw = np.random.default_rng(0)
    parts = [" ".join(draw.choice(words, int(draw.integers(3, 24)))) for _ in range(2 * count)]
    rows: list[Row] = [(parts[2 * i], parts[2 * i + 1]) if pair else (parts[i],) for i in range(count)]
    return Texts(rows, None, "made up")
