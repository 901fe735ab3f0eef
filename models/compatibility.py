"""check_fit(): check, before any long work, that a tokenizer fits an encoder.

A token id, a position or a segment beyond its embedding table would raise an error in the middle of a run: only for
the rare text that contains it, and for the other texts of its batch.
"""

from pathlib import Path

from models.architecture import Architecture
from models.errors import InputError
from models.task import Task
from models.tokenizer import Tokenizer

FEWEST = 4  # tokens of a text, as models.task says
SHOWN = 3  # maximum number of tokens named in a message


def check_fit(folder: Path, shape: Architecture, task: Task) -> None:
    """Check that the encoder has an embedding for everything that the tokenizer can produce.

    Args:
        folder: folder with `tokenizer.json`; messages name it.
        shape: shape of the encoder.
        task: how texts are tokenized.

    Raises:
        InputError: the tokenizer produces ids, positions or segments that the encoder has no row for.
    """
    check_tokenizer(folder, Tokenizer.open(folder, task.max_tokens), shape, task.pair)


def check_tokenizer(folder: Path, tokenizer: Tokenizer, shape: Architecture, pair: bool) -> None:
    """Check a tokenizer that is already open, as `check_fit` does."""
    if tokenizer.max_tokens < FEWEST:
        raise InputError(
            f"{folder} is asked to cut texts at {tokenizer.max_tokens} tokens ({shape.positions} positions): wanted "
            f"{FEWEST} or more"
        )
    if tokens := tokenizer.beyond(shape.vocabulary):
        examples = ", ".join(repr(token) for token in tokens[:SHOWN])
        raise InputError(
            f"{folder}: the tokenizer makes {len(tokens)} tokens beyond the token table of {shape.vocabulary} rows, "
            f"such as {examples}: use the tokenizer that the model was trained with, or enlarge the table "
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
            f"{folder}: the tokenizer uses {tokenizer.segments} segments for a pair of texts, and the model has "
            f"{shape.token_types}: use the tokenizer that the model was trained with"
        )
