"""check_texts(): refuses texts that a model cannot tell apart, warns of odd ones; made_up_texts(): random words."""

from pathlib import Path

import numpy as np

from models.console import say
from models.data.texts import Texts
from models.errors import InputError
from models.task import Task
from models.tokens import Row, Tokenizer, read_backend

LOOKED_AT = 256  # rows, drawn
UNKNOWN = ("[UNK]", "<unk>")
MOST_UNKNOWN = 0.95  # share of unknown tokens from which texts are refused: to the model they are all the same
MANY_UNKNOWN = 0.2  # a warning; SST-2 and AG News have none, tweets with emoji about 0.02
# Tokens a character from which a warning is given. A text in the vocabulary's own language has about 0.25, numbers,
# codes and addresses 0.4 to 1; cut into letters it has 1, or more where a letter is several bytes.
MANY_PIECES = 1.2


def check_texts(texts: Texts, task: Task, folder: Path, what: str, any_text: bool = False) -> None:
    """Refuse texts of another form than the task's, and texts of which the tokenizer knows hardly a token.

    Warns of texts that the tokenizer knows badly: they may be in another language than the model, or log lines,
    codes, numbers, emoji, which are what the model is for. Looks at random rows.

    Args:
        texts: the rows.
        task: of the model.
        folder: of the model; its tokenizer is looked at.
        what: what the texts are for, for people.
        any_text: whether a share of unknown tokens above MOST_UNKNOWN is a warning, too.

    Raises:
        InputError: in each of these cases.
    """
    if texts.pair != task.pair:
        found, wanted = ("pairs", "single texts") if texts.pair else ("single texts", "pairs")
        raise InputError(f"{texts.source}: the {what} rows are {found}, and the model takes {wanted}")
    rows = [texts.rows[int(i)] for i in np.random.default_rng(0).permutation(len(texts))[:LOOKED_AT]]
    characters = sum(not c.isspace() for row in rows for part in row for c in part)
    if not characters:
        raise InputError(f"{texts.source}: the {what} rows hold no text: wanted texts like those that will be served")
    backend = read_backend(folder)
    unknown = {backend.token_to_id(token) for token in UNKNOWN} - {None}
    special = len(Tokenizer(backend, task.max_tokens).encode([("", "") if task.pair else ("",)])[0].ids)
    encoded = Tokenizer(backend, 1_000_000).encode(rows)
    pieces = int(sum(len(e.ids) - special for e in encoded))
    lost = sum(i in unknown for e in encoded for i in e.ids) / max(pieces, 1)
    if lost <= MANY_UNKNOWN and pieces / characters <= MANY_PIECES and pieces:
        return
    message = (
        f"{texts.source}: of the tokens of the {what} rows {lost:.0%} are unknown to the model, and there are "
        f"{pieces / characters:.2f} tokens a character"
    )
    if (lost > MOST_UNKNOWN or not pieces) and not any_text:
        raise InputError(f"{message}: it cannot tell these texts apart; give others, or --any-text to go on")
    say(f"WARNING: {message}: are they in another language than the model's?")


def made_up_texts(folder: Path, pair: bool, count: int = 16) -> Texts:
    """Return rows of random words of a tokenizer's vocabulary: enough for conversions that round nothing."""
    names = sorted(read_backend(folder).get_vocab())
    words = [word for name in names if (word := name.strip("Ġ▁")).isalpha()] or names
    draw = np.random.default_rng(0)
    parts = [" ".join(draw.choice(words, int(draw.integers(3, 24)))) for _ in range(2 * count)]
    rows: list[Row] = [(parts[2 * i], parts[2 * i + 1]) if pair else (parts[i],) for i in range(count)]
    return Texts(rows, None, "made up")
