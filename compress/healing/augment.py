"""augment(): variants of texts, as token ids, for distillation.

A variant need not have the label of its text, or make sense: its target is the teacher's output, and any input close
to the domain helps the student (Bucila et al. 2006, "MUNGE"; Tang et al. 2019; Jiao et al. 2020, "TinyBERT"). There
are three changes: a span is deleted, the end is replaced by the end of another text, and single tokens are replaced
by tokens of the domain, drawn by frequency.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import groupby

import numpy as np

from models.tokenizer import Encoded

MIXED = 0.5  # share of the segments that get the end of another text; the others lose a span
LONGEST_SPAN = 0.5  # share of a segment
REPLACED = 0.1  # share of the tokens


def augment(
    encoded: Sequence[Encoded], numbers: Sequence[int], special: Collection[int], seed: int
) -> tuple[list[Encoded], list[int]]:
    """Return one variant for each entry of `numbers`, which are row numbers and may repeat.

    A variant has the special tokens of its row, in their order, and as many segments: the first text of a pair is
    mixed only with first texts. No variant is longer than its row. Variant v depends only on the rows, `numbers[v]`
    and (seed, v).

    Args:
        encoded: all rows; replacement ends and tokens are taken from any of them.
        numbers: numbers of the rows for which variants are made.
        special: ids of the special tokens.
        seed: random seed.

    Returns:
        The variants, and for each the number of the row whose end it may have, or of its own row.
    """
    rows = [_segments(e, special) for e in encoded]
    counts = Counter(token for row in rows for segment in row for token in segment)
    tokens = np.array(sorted(counts))
    cumulative = np.cumsum([counts[int(token)] for token in tokens])
    variants, donors = [], []
    for variant, number in enumerate(numbers):
        generator = np.random.default_rng([seed, variant])
        donor_number = int(generator.integers(len(rows)))
        donor, is_mixed = rows[donor_number], False
        changed = []
        for place, segment in enumerate(rows[number]):
            other = donor[place] if place < len(donor) else []
            mixes = generator.random() < MIXED
            is_mixed = is_mixed or mixes
            ids = _mixed(segment, other, generator) if mixes else _without_span(segment, generator)
            replaced = generator.random(len(ids)) < REPLACED
            drawn = np.searchsorted(cumulative, generator.integers(cumulative[-1], size=len(ids)), side="right")
            changed.append([int(tokens[d]) if r else i for i, r, d in zip(ids, replaced, drawn, strict=True)])
        variants.append(_joined(encoded[number], special, changed))
        donors.append(donor_number if is_mixed else number)
    return variants, donors


def _segments(e: Encoded, special: Collection[int]) -> list[list[int]]:
    """Return the runs of tokens between special ones."""
    return [list(run) for is_special, run in groupby(e.ids, key=lambda i: i in special) if not is_special]


def _joined(e: Encoded, special: Collection[int], segments: Sequence[list[int]]) -> Encoded:
    """Return the row with its runs of ordinary tokens replaced by `segments`."""
    ids: list[int] = []
    types: list[int] = []
    remaining = iter(segments)
    pairs = zip(e.ids, e.types, strict=True)
    for is_special, group in groupby(pairs, key=lambda pair: pair[0] in special):
        run = list(group)
        ids += (new_ids := [i for i, _ in run] if is_special else next(remaining))
        types += [t for _, t in run] if is_special else [run[0][1]] * len(new_ids)
    return Encoded(ids, types)


def _mixed(segment: list[int], other: list[int], generator: np.random.Generator) -> list[int]:
    """Return the beginning of `segment` and the end of `other`, together not longer than `segment`."""
    begin = int(generator.integers(1, len(segment) + 1))
    end = min(len(segment) - begin, len(other))
    return segment[:begin] + other[len(other) - end :]


def _without_span(segment: list[int], generator: np.random.Generator) -> list[int]:
    """Return the segment without one span; at least one token stays."""
    length = int(generator.integers(0, int(len(segment) * LONGEST_SPAN) + 1))
    begin = int(generator.integers(0, len(segment) - length + 1))
    return segment[:begin] + segment[begin + length :]
