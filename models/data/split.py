"""split_rows(): labels → the row numbers of two disjoint parts that look alike; halve_rows(): of two halves."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from models.data.labels import Label
from models.errors import InputError
from models.task import Kind

BINS = 10  # of a regression's numbers
Parts = tuple[list[int], list[int]]


def split_rows(labels: Sequence[Label], kind: Kind, fraction: float, seed: int) -> Parts:
    """Return the rows of a first and a second part; the second has `fraction` of the rows, rounded up.

    The parts are stratified: by label (single), by sets of labels (multi), by quantiles (regression). A label with
    one row cannot be in both parts: for `single` that is an error, for `multi` its row goes to the part that is short
    of it most, which is the larger one. The same seed gives the same parts.

    Raises:
        InputError: a part would be empty; or for `single`, a label has one row, or a part has fewer rows than there
            are labels.
    """
    second = math.ceil(fraction * len(labels)) if 0 < fraction < 1 else 0
    if not 0 < second < len(labels):
        raise InputError(f"{fraction} of {len(labels)} rows leaves a part empty: wanted a share between 0 and 1")
    if kind == "multi":
        return _iterative(cast(Sequence[tuple[str, ...]], labels), second, seed)
    if kind == "regression":
        return _stratified(_quantile_bins(np.array(labels), second), fraction, seed)
    _check_strata(cast(Sequence[str], labels), second)
    return _stratified(labels, fraction, seed)


def halve_rows(labels: Sequence[Label] | None, kind: Kind, rows: int, seed: int) -> Parts:
    """Return the rows of two halves that look alike, each in ascending order; the first has the odd row.

    Unlike `split_rows` it refuses nothing: a label with one row is in one half only. `single` and `regression` rows
    are sorted by their label, rows of one label in random order, and of each two neighbours a random one goes to
    either half; `multi` is as in `split_rows`, rows without labels are drawn. The same seed gives the same halves.

    Args:
        labels: of the rows, or None.
        kind: of the labels.
        rows: how many there are.
        seed: of the draw.
    """
    generator = np.random.default_rng(seed)
    if labels is not None and kind == "multi" and rows > 1:
        return _iterative(cast(Sequence[tuple[str, ...]], labels), rows // 2, seed)
    order = generator.permutation(rows)
    if labels is not None:
        values = np.array(labels)
        order = order[np.argsort(values[order], kind="stable")]
    first = generator.integers(0, 2, (rows + 1) // 2)  # which one of each two neighbours
    if rows % 2:
        first[-1] = 0
    place = np.arange(rows)
    in_first = place % 2 == first[place // 2]
    return sorted(order[in_first].tolist()), sorted(order[~in_first].tolist())


def _check_strata(labels: Sequence[str], second: int) -> None:
    counts = Counter(labels)
    rarest, count = min(counts.items(), key=lambda item: item[1])
    if count < 2:
        raise InputError(f"label {rarest!r} has one row only, which cannot be in both parts")
    smaller = min(second, len(labels) - second)
    if smaller < len(counts):
        raise InputError(f"a part would have {smaller} rows for {len(counts)} labels: wanted one a label or more")


def _stratified(strata: Sequence[Label], fraction: float, seed: int) -> Parts:
    from sklearn.model_selection import train_test_split

    rows = list(range(len(strata)))
    first, second = train_test_split(rows, test_size=fraction, random_state=seed, stratify=strata, shuffle=True)
    return first, second


def _quantile_bins(numbers: NDArray[np.float64], second: int) -> list[str]:
    rows = len(numbers)
    bins = max(1, min(BINS, rows // 2, second, rows - second))  # what stratifying by label asks for, in numbers
    places = np.empty(rows, dtype=np.int64)
    places[np.argsort(numbers, kind="stable")] = np.arange(rows)
    return [str(place * bins // rows) for place in places]


def _iterative(labels: Sequence[tuple[str, ...]], second: int, seed: int) -> Parts:
    """Give out the rows of the rarest label first, each to the part that is shortest of that label.

    Sechidis, Tsoumakas and Vlahavas (2011), "On the stratification of multi-label data", algorithm 1, for two parts.
    Rows without a label come last and fill the parts up.
    """
    order = np.random.default_rng(seed).permutation(len(labels)).tolist()
    room = np.array([len(labels) - second, second], dtype=np.float64)
    holders: dict[str, list[int]] = {}
    for row in order:
        for name in labels[row]:
            holders.setdefault(name, []).append(row)
    wanted = {name: room / len(labels) * len(rows) for name, rows in holders.items()}
    left = {name: len(rows) for name, rows in holders.items()}
    parts: Parts = ([], [])
    placed: set[int] = set()

    def place(row: int, short: NDArray[np.float64]) -> None:
        part = max((0, 1), key=lambda p: (room[p] > 0, short[p], room[p]))
        parts[part].append(row)
        placed.add(row)
        room[part] -= 1
        for name in labels[row]:
            wanted[name][part] -= 1
            left[name] -= 1

    while any(left.values()):
        rarest = min((name for name in left if left[name]), key=lambda name: (left[name], name))
        for row in holders[rarest]:
            if row not in placed:
                place(row, wanted[rarest])
    for row in order:
        if row not in placed:
            place(row, room)
    return sorted(parts[0]), sorted(parts[1])
