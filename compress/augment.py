"""augment(): cheap variants of texts, as tokens; what they mean is for the teacher to say.

A variant need not keep its text's label, or make sense: a student learns what the teacher answers, and any input near
the domain will do (Bucila et al. 2006, "MUNGE"; Tang et al. 2019; Jiao et al. 2020, "TinyBERT"). Three changes: a
span goes, an end is exchanged for another text's, single tokens become others of the domain, drawn by frequency.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import groupby

import numpy as np

from models.tokens import Encoded

MIXED = 0.5  # of the segments get another text's end; the others lose a span
LONGEST_SPAN = 0.5  # of a segment
REPLACED = 0.1  # of the tokens


def augment(
    encoded: Sequence[Encoded], numbers: Sequence[int], special: Collection[int], seed: int
) -> tuple[list[Encoded], list[int]]:
    """Return a variant of row `numbers[0]`, one of row `numbers[1]`, and so on; a row may be varied many times.

    Returned beside them, for each variant: the number of the row whose end it may have, or of its own row.

    A row keeps its special tokens, in their order, and its segments: the first text of a pair is mixed with first
    texts only. No variant is longer than its row. Variant v is a function of the rows, `numbers[v]` and (seed, v).

    Args:
        encoded: all rows, as the tokenizer splits them: ends and single tokens are taken from any of them.
        numbers: of the rows that are varied.
        special: ids that are put around texts.
        seed: of all that is random.
    """
    rows = [_segments(e, special) for e in encoded]
    counts = Counter(token for row in rows for segment in row for token in segment)
    known = np.array(sorted(counts))
    cumulative = np.cumsum([counts[int(token)] for token in known])
    found, donors = [], []
    for variant, number in enumerate(numbers):
        generator = np.random.default_rng([seed, variant])
        taken = int(generator.integers(len(rows)))
        donor, is_mixed = rows[taken], False
        changed = []
        for place, segment in enumerate(rows[number]):
            other = donor[place] if place < len(donor) else []
            mixes = generator.random() < MIXED
            is_mixed = is_mixed or mixes
            one = _mixed(segment, other, generator) if mixes else _cut(segment, generator)
            drawn = generator.random(len(one)) < REPLACED
            places = np.searchsorted(cumulative, generator.integers(cumulative[-1], size=len(one)), side="right")
            changed.append([int(known[p]) if d else t for t, d, p in zip(one, drawn, places, strict=True)])
        found.append(_joined(encoded[number], special, changed))
        donors.append(taken if is_mixed else number)
    return found, donors


def _segments(e: Encoded, special: Collection[int]) -> list[list[int]]:
    """Return the runs of tokens between special ones."""
    return [list(run) for is_special, run in groupby(e.ids, key=lambda i: i in special) if not is_special]


def _joined(e: Encoded, special: Collection[int], segments: Sequence[list[int]]) -> Encoded:
    """Return the row with its runs of ordinary tokens exchanged for `segments`."""
    ids: list[int] = []
    types: list[int] = []
    left = iter(segments)
    pairs = zip(e.ids, e.types, strict=True)
    for is_special, run in groupby(pairs, key=lambda pair: pair[0] in special):
        held = list(run)
        ids += (now := [i for i, _ in held] if is_special else next(left))
        types += [t for _, t in held] if is_special else [held[0][1]] * len(now)
    return Encoded(ids, types)


def _mixed(segment: list[int], other: list[int], generator: np.random.Generator) -> list[int]:
    """Return the beginning of one and the end of the other, together no longer than the one."""
    begin = int(generator.integers(1, len(segment) + 1))
    end = min(len(segment) - begin, len(other))
    return segment[:begin] + other[len(other) - end :]


def _cut(segment: list[int], generator: np.random.Generator) -> list[int]:
    """Return the segment without one span; at least one token stays."""
    gone = int(generator.integers(0, int(len(segment) * LONGEST_SPAN) + 1))
    begin = int(generator.integers(0, len(segment) - gone + 1))
    return segment[:begin] + segment[begin + gone :]
