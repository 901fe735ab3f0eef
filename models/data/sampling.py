"""choose_texts(): rows as long as those that are served, seeded, each once."""

from collections.abc import Sequence

import numpy as np


def choose_texts(lengths: Sequence[int], served: Sequence[int], count: int, seed: int) -> list[int]:
    """Return up to `count` row numbers, each once, whose lengths are spread as the served ones are.

    For each of `count` drawn served lengths the free row of the nearest length is taken; rows of one length come in
    random order. Training rows are often shorter (phrases) or longer than what is served.

    Args:
        lengths: of the rows to choose from, in tokens.
        served: lengths of texts as they are served.
        count: how many rows.
        seed: of the draw.
    """
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(lengths))
    order = shuffled[np.argsort(np.asarray(lengths)[shuffled], kind="stable")]
    known = np.asarray(lengths)[order]
    after = np.arange(len(order) + 1)  # the next free place at or after a place; `before` likewise, shifted by one
    before = np.arange(len(order) + 1)
    chosen = []
    for wanted in generator.choice(np.asarray(served), min(count, len(lengths))):
        place = int(np.searchsorted(known, wanted))
        up, down = _find(after, place), _find(before, place)
        takes_up = down == 0 or (up < len(order) and known[up] - wanted <= wanted - known[down - 1])
        place = up if takes_up else down - 1
        chosen.append(int(order[place]))
        after[place], before[place + 1] = place + 1, place
    return chosen


def _find(parent: np.ndarray, place: int) -> int:
    """Return the end of the chain that begins at `place`, and shorten the chain (union-find, Tarjan 1975)."""
    end = place
    while parent[end] != end:
        end = int(parent[end])
    while parent[place] != end:
        parent[place], place = end, int(parent[place])
    return end
