"""Batches of rows of similar length, to reduce padding; their order is a function of the seed and the epoch."""

from collections.abc import Iterator, Sequence

import numpy as np

from models.tokenizer import Encoded

POOL = 32  # batches whose rows are sorted by length together: fewer give more padding, more give less random batches


def length_batches(encoded: Sequence[Encoded], size: int, seed: int) -> Iterator[list[int]]:
    """Yield batches of `size` row numbers, sorted by length over all rows; each row comes once. For inference."""
    generator = np.random.default_rng(seed)
    noise = generator.permutation(len(encoded))  # breaks ties between rows of the same length
    order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i].ids), noise[i]))
    starts = list(range(0, len(order), size))
    for start in generator.permutation(len(starts)):
        yield order[starts[start] : starts[start] + size]


def training_batches(lengths: Sequence[int], size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the row numbers of each step of an epoch; each row comes once.

    Rows are shuffled and sorted by length within pools of `POOL` batches; then the batches are shuffled. So the rows
    of a batch have similar lengths, and the composition of the batches differs from epoch to epoch.
    """
    generator = np.random.default_rng([seed, epoch])
    shuffled = generator.permutation(len(lengths))
    batches = []
    for start in range(0, len(shuffled), POOL * size):
        pool = sorted(shuffled[start : start + POOL * size].tolist(), key=lambda row: lengths[row])
        batches += [pool[i : i + size] for i in range(0, len(pool), size)]
    return [batches[i] for i in generator.permutation(len(batches))]
