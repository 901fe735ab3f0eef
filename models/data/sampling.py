"""choose_texts(): sample rows whose lengths follow the length distribution of the served texts."""

from collections.abc import Sequence

import numpy as np


def choose_texts(lengths: Sequence[int], served: Sequence[int], count: int, seed: int) -> list[int]:
    """Return up to `count` distinct row indices whose lengths are distributed like those of the served texts.

    `count` lengths are drawn from the served ones. For each, the unused row of the nearest length is taken; rows of
    equal length are in random order. Training rows are often shorter (phrases) or longer than the served texts.

    Args:
        lengths: lengths of the rows to choose from, in tokens.
        served: lengths of served texts, in tokens.
        count: number of rows.
        seed: random seed.
    """
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(lengths))
    order = shuffled[np.argsort(np.asarray(lengths)[shuffled], kind="stable")]
    sorted_lengths = np.asarray(lengths)[order]
    next_free = np.arange(len(order) + 1)  # parents: lead to the first unused index at or after an index
    last_free = np.arange(len(order) + 1)  # likewise at or before an index, all shifted by one: 0 means none
    chosen = []
    for length in generator.choice(np.asarray(served), min(count, len(lengths))):
        index = int(np.searchsorted(sorted_lengths, length))
        up, down = _find(next_free, index), _find(last_free, index)
        take_up = down == 0 or (up < len(order) and sorted_lengths[up] - length <= length - sorted_lengths[down - 1])
        index = up if take_up else down - 1
        chosen.append(int(order[index]))
        next_free[index], last_free[index + 1] = index + 1, index
    return chosen


def _find(parents: np.ndarray, index: int) -> int:
    """Return the root of `index`, and compress the path to it (union-find, Tarjan 1975)."""
    root = index
    while parents[root] != root:
        root = int(parents[root])
    while parents[index] != root:
        parents[index], index = root, int(parents[index])
    return root
