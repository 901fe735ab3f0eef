"""most_typical(): a cheap first choice of lines: those whose words are more frequent in the training texts.

The score of a line is the mean, over its words and pairs of words, of the logarithm of their frequency in the
training texts over that in the corpus (Moore and Lewis 2010, "Intelligent selection of language model training data",
with the hashed n-grams of Xie et al. 2023, "Data selection for language models via importance resampling").
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.messages import progress

BUCKETS = 2**18  # words and pairs of words are hashed to so many numbers
CHUNK = 20_000  # lines
SAMPLE = 100_000  # lines from which the frequencies in the corpus are counted
SMOOTHING = 0.5  # added to each count


def most_typical(corpus: Sequence[str], training: Sequence[str], count: int) -> list[int]:
    """Return the numbers of the `count` lines of `corpus` with the highest scores, in ascending order."""
    from sklearn.feature_extraction.text import HashingVectorizer

    hashing = HashingVectorizer(
        n_features=BUCKETS, ngram_range=(1, 2), token_pattern=r"(?u)\w+", norm=None, alternate_sign=False,
        dtype=np.float32,
    )  # fmt: skip
    sampled = np.random.default_rng(0).permutation(len(corpus))[:SAMPLE]
    weights = _log_frequencies(hashing, training) - _log_frequencies(hashing, [corpus[i] for i in sampled])
    scores = np.zeros(len(corpus))
    with progress(total=len(corpus), desc="compare words", unit="line", delay=2) as bar:
        for start in range(0, len(corpus), CHUNK):
            counts = hashing.transform(corpus[start : start + CHUNK])
            totals = np.asarray(counts.sum(axis=1)).ravel()
            scores[start : start + CHUNK] = counts @ weights / totals.clip(min=1)
            scores[start : start + CHUNK][totals == 0] = -np.inf  # no words
            bar.update(len(totals))
    return sorted(np.argsort(-scores, kind="stable")[:count].tolist())


def _log_frequencies(hashing: Any, texts: Sequence[str]) -> NDArray[np.float64]:
    counts = np.full(BUCKETS, SMOOTHING)
    for start in range(0, len(texts), CHUNK):
        counts += np.asarray(hashing.transform(texts[start : start + CHUNK]).sum(axis=0)).ravel()
    return np.asarray(np.log(counts / counts.sum()))
