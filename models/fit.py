"""check_fit(): whether a tokenizer and an encoder belong together, before work is put into them.

An id beyond the token table, a position beyond the last or a segment that has no row is an error in the middle of a
run: for one text in a thousand, and for the texts that share its batch.
"""

from pathlib import Path

from models.architecture import Architecture
from models.errors import InputError
from models.task import Task
from models.tokens import Tokenizer

SHOWN = 3  # tokens that a message names


def check_fit(folder: Path, shape: Architecture, task: Task) -> None:
    """Let pass what can answer every text.

    Args:
        folder: has `tokenizer.json`; messages name it.
        shape: of the encoder.
        task: how texts are tokenized.

    Raises:
        InputError: the tokenizer makes ids, positions or segments that the encoder has no row for.
    """
    check_tokenizer(folder, Tokenizer.open(folder, task.max_tokens), shape, task.pair)


def check_tokenizer(folder: Path, tokenizer: Tokenizer, shape: Architecture, pair: bool) -> None:
    """Let pass a tokenizer, already open, like `check_fit`."""
    if beyond := tokenizer.beyond(shape.vocabulary):
        named = ", ".join(repr(token) for token in beyond[:SHOWN])
        raise InputError(
            f"{folder}: the tokenizer makes {len(beyond)} tokens beyond the token table of {shape.vocabulary} rows, "
            f"such as {named}: take the tokenizer that the model was trained with, or enlarge the table "
            "(transformers: model.resize_token_embeddings(len(tokenizer))) and fine-tune"
        )
    if shape.pad_id >= shape.vocabulary:
        raise InputError(
            f"{folder}: the padding id is {shape.pad_id}, and the token table has {shape.vocabulary} rows"
        )
    if tokenizer.max_tokens > shape.positions:
        raise InputError(f"--max-tokens is {tokenizer.max_tokens}, and {folder} has {shape.positions} positions")
    if pair and shape.token_types > 1 and tokenizer.segments > shape.token_types:
        raise InputError(
            f"{folder}: the tokenizer tells {tokenizer.segments} segments of a pair apart, and the model "
            f"{shape.token_types}: take the tokenizer that the model was trained with"
        )
