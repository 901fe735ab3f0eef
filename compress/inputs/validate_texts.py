"""check_texts(): check that a model can read the texts that a user gives; made_up_texts(): rows of random words."""

from pathlib import Path

import numpy as np

from models.data.texts import Texts
from models.errors import InputError
from models.messages import say
from models.task import Task
from models.tokenizer import Row, Tokenizer, read_backend

CHECKED_ROWS = 256  # drawn from all rows
UNKNOWN = ("[UNK]", "<unk>")
MAX_UNKNOWN = 0.95  # share of unknown tokens above which texts are refused: they are all the same to the model
MANY_UNKNOWN = 0.2  # share above which there is a warning; SST-2 and AG News have none, tweets with emoji about 0.02
# Tokens per character above which there is a warning. A text in the language of the vocabulary has about 0.25;
# numbers, codes and addresses have 0.4 to 1. A text that is split into characters has 1, or more where a character
# is several bytes.
MANY_TOKENS = 1.2


def check_texts(texts: Texts, task: Task, folder: Path, purpose: str, any_text: bool = False) -> None:
    """Check a random sample of rows: their form is that of the task, and the tokenizer knows their tokens.

    Prints a warning if the tokenizer knows the texts badly. They may be in another language than the model's, or log
    lines, codes, numbers or emoji, which may be what the model is for.

    Args:
        texts: the rows.
        task: the task of the model.
        folder: the folder of the model, with its tokenizer.
        purpose: what the texts are used for, for messages.
        any_text: print a warning instead of an error if more than MAX_UNKNOWN of the tokens are unknown.

    Raises:
        InputError: the rows are pairs and the model takes single texts, or the reverse; they are empty; or more than
            MAX_UNKNOWN of their tokens are unknown.
    """
    if texts.pair != task.pair:
        actual, expected = ("pairs", "single texts") if texts.pair else ("single texts", "pairs")
        raise InputError(f"{texts.source}: the {purpose} rows are {actual}, and the model takes {expected}")
    rows = [texts.rows[int(i)] for i in np.random.default_rng(0).permutation(len(texts))[:CHECKED_ROWS]]
    characters = sum(not c.isspace() for row in rows for part in row for c in part)
    if not characters:
        raise InputError(
            f"{texts.source}: the {purpose} rows have no text: wanted texts like those that will be served"
        )
    backend = read_backend(folder)
    unknown_ids = {backend.token_to_id(token) for token in UNKNOWN} - {None}
    special = len(Tokenizer(backend, task.max_tokens).encode([("", "") if task.pair else ("",)])[0].ids)
    encoded = Tokenizer(backend, 1_000_000).encode(rows)
    tokens = int(sum(len(e.ids) - special for e in encoded))
    unknown = sum(i in unknown_ids for e in encoded for i in e.ids) / max(tokens, 1)
    if unknown <= MANY_UNKNOWN and tokens / characters <= MANY_TOKENS and tokens:
        return
    message = (
        f"{texts.source}: {unknown:.0%} of the tokens of the {purpose} rows are unknown to the model, and there are "
        f"{tokens / characters:.2f} tokens per character"
    )
    if (unknown > MAX_UNKNOWN or not tokens) and not any_text:
        raise InputError(f"{message}: it cannot tell these texts apart; give others, or --any-text to go on")
    say(f"WARNING: {message}: are they in another language than the model's?")


def made_up_texts(folder: Path, pair: bool, count: int = 16) -> Texts:
    """Return rows of random words from the vocabulary of a tokenizer, for conversions that quantize nothing."""
    names = sorted(read_backend(folder).get_vocab())
    words = [word for name in names if (word := name.strip("Ġ▁")).isalpha()] or names
    draw = np.random.default_rng(0)
    parts = [" ".join(draw.choice(words, int(draw.integers(3, 24)))) for _ in range(2 * count)]
    rows: list[Row] = [(parts[2 * i], parts[2 * i + 1]) if pair else (parts[i],) for i in range(count)]
    return Texts(rows, None, "made up")
