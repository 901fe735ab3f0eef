"""Batches of similar length, so that little is padded; their order is a function of the seed and the epoch."""

from collections.abc import Iterator, Sequence

import numpy as np

from models.tokens import Encoded

POOL = 32  # batches that are sorted by length together: less is padded more, more makes batches less random


def length_batches(encoded: Sequence[Encoded], size: int, seed: int) -> Iterator[list[int]]:
    """Yield row numbers, `size` at a time, of the most similar length; each row comes once. For inference."""
    generator = np.random.default_rng(seed)
    noise = generator.permutation(len(encoded))  # breaks ties between rows of one length
    order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i].ids), noise[i]))
    starts = list(range(0, len(order), size))
    for start in generator.permutation(len(starts)):
        yield order[starts[start] : starts[start] + size]


def training_batches(lengths: Sequence[int], size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the row numbers of each step of an epoch; each row comes once.

    Rows are shuffled, sorted by length within pools of `POOL` batches, and the batches are shuffled: batch mates
    differ from epoch to epoch, while their lengths are close.
    """
    generator = np.random.default_rng([seed, epoch])
    shuffled = generator.permutation(len(lengths))
    batches = []
    for start in range(0, len(shuffled), POOL * size):
        pool = sorted(shuffled[start : start + POOL * size].tolist(), key=lambda row: lengths[row])
        batches += [pool[i : i + size] for i in range(0, len(pool), size)]
    return [batches[i] for i in generator.permutation(len(batches))]
