"""draw_texts(): sample rows, with repetitions, whose lengths follow those of the served texts; pad rows to batches.

`models.data.sampling.choose_texts` samples without replacement.
"""

from collections.abc import Sequence

import numpy as np

from models.tokenizer import Encoded, TokenBatch, Tokenizer
from models.train.batches import length_batches


def draw_texts(lengths: Sequence[int], served: Sequence[int], count: int, seed: int) -> list[int]:
    """Return `count` row indices, with repetitions, whose lengths are distributed like those of the served texts.

    `count` lengths are drawn from the served ones. For each, one of the rows of the nearest length is drawn.

    Args:
        lengths: lengths of the rows to draw from, in tokens.
        served: lengths of served texts, in tokens.
        count: number of indices.
        seed: random seed.
    """
    generator = np.random.default_rng(seed)
    order = np.argsort(np.asarray(lengths), kind="stable")
    sorted_lengths = np.asarray(lengths)[order]
    values = np.unique(sorted_lengths)
    drawn = generator.choice(np.asarray(served), count)
    after = np.searchsorted(values, drawn).clip(max=len(values) - 1)
    before = (after - 1).clip(min=0)
    nearest = np.where(drawn - values[before] < values[after] - drawn, values[before], values[after])
    begin, end = np.searchsorted(sorted_lengths, nearest), np.searchsorted(sorted_lengths, nearest, side="right")
    return [int(row) for row in order[generator.integers(begin, end)]]


def pad_texts(encoded: Sequence[Encoded], rows: Sequence[int], tokenizer: Tokenizer) -> list[TokenBatch]:
    """Return the rows as padded batches of rows of similar length."""
    chosen = [encoded[row] for row in rows]
    return [tokenizer.pad([chosen[i] for i in batch]) for batch in length_batches(chosen, 32, seed=0)]
