"""Rows as long as those that are served, seeded: choose_texts() each once, draw_texts() some often."""

from collections.abc import Sequence

import numpy as np

from models.data.sampling import choose_texts as choose_texts  # told here too: its users draw by both
from models.tokens import Encoded, TokenBatch, Tokenizer
from models.train.batches import length_batches


def draw_texts(lengths: Sequence[int], served: Sequence[int], count: int, seed: int) -> list[int]:
    """Return `count` row numbers whose lengths are spread as the served ones are, a row as often as it takes.

    For each of `count` drawn served lengths one of the rows of the nearest length is drawn.

    Args:
        lengths: of the rows to draw from, in tokens.
        served: lengths of texts as they are served.
        count: how many.
        seed: of the draws.
    """
    generator = np.random.default_rng(seed)
    order = np.argsort(np.asarray(lengths), kind="stable")
    known = np.asarray(lengths)[order]
    values = np.unique(known)
    wanted = generator.choice(np.asarray(served), count)
    after = np.searchsorted(values, wanted).clip(max=len(values) - 1)
    before = (after - 1).clip(min=0)
    nearest = np.where(wanted - values[before] < values[after] - wanted, values[before], values[after])
    begin, end = np.searchsorted(known, nearest), np.searchsorted(known, nearest, side="right")
    return [int(row) for row in order[generator.integers(begin, end)]]


def lengths_of(encoded: Sequence[Encoded]) -> list[int]:
    """Return the number of tokens of each row."""
    return [len(e.ids) for e in encoded]


def pad_texts(encoded: Sequence[Encoded], rows: Sequence[int], tokenizer: Tokenizer) -> list[TokenBatch]:
    """Return the rows as batches of like length."""
    chosen = [encoded[row] for row in rows]
    return [tokenizer.pad([chosen[i] for i in batch]) for batch in length_batches(chosen, 32, seed=0)]
