"""Texts about films with noisy labels, for tests of a gate."""

import numpy as np
from tiny import BAD, GOOD, OTHER

from models.data.texts import Texts


def film_texts(count: int, seed: int, noise: float = 0.1) -> Texts:
    """Return texts of random words, of which the label counts the good ones; some have the other label."""
    generator = np.random.default_rng(seed)
    rows, labels = [], []
    for _ in range(count):
        is_good = bool(generator.integers(2))
        words = [*generator.choice(GOOD if is_good else BAD, 2), *generator.choice(OTHER, generator.integers(2, 9))]
        rows.append((" ".join(generator.permutation(words)),))
        labels.append("positive" if is_good != (generator.random() < noise) else "negative")
    return Texts(rows, labels, f"films {seed}")
