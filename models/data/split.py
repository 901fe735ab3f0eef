"""split_rows(): split rows into two disjoint parts, stratified by label; halve_rows(): into two halves."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from models.data.labels import Label
from models.errors import InputError
from models.task import Kind

BINS = 10  # quantile bins that stratify the numbers of a regression
Parts = tuple[list[int], list[int]]


def split_rows(labels: Sequence[Label], kind: Kind, fraction: float, seed: int) -> Parts:
    """Return the row indices of two parts; the second has `fraction` of the rows, rounded up.

    The parts are stratified: by label (single), by sets of labels (multi), by quantiles (regression). A label with
    one row cannot be in both parts: for `single` that is an error; for `multi` its row goes to the part that lacks
    the most rows of this label, which is the larger part. The same seed gives the same parts.

    Raises:
        InputError: a part would be empty; or for `single`, a label has only one row, or a part would have fewer rows
            than there are labels.
    """
    second_size = math.ceil(fraction * len(labels)) if 0 < fraction < 1 else 0
    if not 0 < second_size < len(labels):
        raise InputError(f"{fraction} of {len(labels)} rows leaves a part empty: wanted a share between 0 and 1")
    if kind == "multi":
        return _iterative(cast(Sequence[tuple[str, ...]], labels), second_size, seed)
    if kind == "regression":
        return _stratified(_quantile_bins(np.array(labels), second_size), fraction, seed)
    _check_strata(cast(Sequence[str], labels), second_size)
    return _stratified(labels, fraction, seed)


def halve_rows(labels: Sequence[Label] | None, kind: Kind, rows: int, seed: int) -> Parts:
    """Return the row indices of two stratified halves, in ascending order; the first half has the odd row.

    Unlike `split_rows` it raises no error: a label with one row is in one half only. `single` and `regression` rows
    are sorted by label, rows of one label in random order; of each consecutive pair, a random row goes to the first
    half and the other to the second. `multi` is split as in `split_rows`. Rows without labels are split at random.
    The same seed gives the same halves.

    Args:
        labels: labels of the rows, or None.
        kind: kind of the labels.
        rows: number of rows.
        seed: random seed.
    """
    generator = np.random.default_rng(seed)
    if labels is not None and kind == "multi" and rows > 1:
        return _iterative(cast(Sequence[tuple[str, ...]], labels), rows // 2, seed)
    order = generator.permutation(rows)
    if labels is not None:
        values = np.array(labels)
        order = order[np.argsort(values[order], kind="stable")]
    member = generator.integers(0, 2, (rows + 1) // 2)  # which row of each pair goes to the first half
    if rows % 2:
        member[-1] = 0
    index = np.arange(rows)
    in_first = index % 2 == member[index // 2]
    return sorted(order[in_first].tolist()), sorted(order[~in_first].tolist())


def _check_strata(labels: Sequence[str], second_size: int) -> None:
    counts = Counter(labels)
    rarest, count = min(counts.items(), key=lambda item: item[1])
    if count < 2:
        raise InputError(f"label {rarest!r} has one row only, which cannot be in both parts")
    smaller = min(second_size, len(labels) - second_size)
    if smaller < len(counts):
        raise InputError(f"a part would have {smaller} rows for {len(counts)} labels: wanted at least one per label")


def _stratified(strata: Sequence[Label], fraction: float, seed: int) -> Parts:
    from sklearn.model_selection import train_test_split

    rows = list(range(len(strata)))
    first, second = train_test_split(rows, test_size=fraction, random_state=seed, stratify=strata, shuffle=True)
    return first, second


def _quantile_bins(numbers: NDArray[np.float64], second_size: int) -> list[str]:
    rows = len(numbers)
    # each bin needs two rows, and each part at least one row per bin (see _check_strata)
    bins = max(1, min(BINS, rows // 2, second_size, rows - second_size))
    ranks = np.empty(rows, dtype=np.int64)
    ranks[np.argsort(numbers, kind="stable")] = np.arange(rows)
    return [str(rank * bins // rows) for rank in ranks]


def _iterative(labels: Sequence[tuple[str, ...]], second_size: int, seed: int) -> Parts:
    """Assign the rows of the rarest label first, each row to the part that lacks the most rows of that label.

    Sechidis, Tsoumakas and Vlahavas (2011), "On the stratification of multi-label data", algorithm 1, for two parts.
    Rows without a label come last and fill the parts.
    """
    order = np.random.default_rng(seed).permutation(len(labels)).tolist()
    room = np.array([len(labels) - second_size, second_size], dtype=np.float64)  # free rows of each part
    rows_of: dict[str, list[int]] = {}
    for row in order:
        for name in labels[row]:
            rows_of.setdefault(name, []).append(row)
    missing = {name: room / len(labels) * len(rows) for name, rows in rows_of.items()}  # of a label, in each part
    left = {name: len(rows) for name, rows in rows_of.items()}  # rows of a label that are not assigned yet
    parts: Parts = ([], [])
    assigned: set[int] = set()

    def assign(row: int, demand: NDArray[np.float64]) -> None:
        part = max((0, 1), key=lambda p: (room[p] > 0, demand[p], room[p]))
        parts[part].append(row)
        assigned.add(row)
        room[part] -= 1
        for name in labels[row]:
            missing[name][part] -= 1
            left[name] -= 1

    while any(left.values()):
        rarest = min((name for name in left if left[name]), key=lambda name: (left[name], name))
        for row in rows_of[rarest]:
            if row not in assigned:
                assign(row, missing[rarest])
    for row in order:
        if row not in assigned:
            assign(row, room)
    return sorted(parts[0]), sorted(parts[1])
