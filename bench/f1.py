"""compare_f1(): what is lost of macro or micro F1 between two models' answers to the same rows."""

import numpy as np
from numpy.typing import NDArray

from bench.accuracy import Answers, Difference, F1Metric, right, widened
from bench.paired import unseen_share
from bench.resampling import Floats, bca_interval


def f1_of(truth: Answers, answers: Answers, metric: F1Metric) -> float:
    """Return F1 of label indices (rows,) or of given labels (rows, labels); macro: over the labels in `truth`."""
    columns = _columns(truth, answers)
    return float(_f1(columns.sum(axis=0, dtype=np.float64)[None], metric)[0])


def compare_f1(truth: Answers, reference: Answers, ours: Answers, metric: F1Metric, seed: int = 0) -> Difference:
    """Return the paired difference of F1; points are hundredths of it.

    The interval is the 95 % BCa bootstrap over rows, in which both models answer the same draw, widened to what these
    rows could not show: of each label's rows a share on which no two answers were seen to differ may still be lost
    (`bench.paired.unseen_share` of that label's rows; squares add up over labels, whose rows are independent).
    """
    columns = np.stack([_columns(truth, reference), _columns(truth, ours)], axis=1)  # (rows, 2, 3, labels)
    shape = columns.shape[1:]

    def losses(sums: Floats) -> Floats:
        parts = sums.reshape(-1, *shape)
        return _f1(parts[:, 0], metric) - _f1(parts[:, 1], metric)

    flat = columns.reshape(len(columns), -1)
    totals = columns.sum(axis=0, dtype=np.float64)
    loss = 100 * float(losses(totals[None])[0])
    low, high = bca_interval(losses, flat, seed)
    resolution = 100 * _unseen(totals[0], columns[:, 0, 0], metric)
    return Difference(
        metric=metric, rows=len(truth), loss_points=loss,
        loss_interval=widened((100 * low, 100 * high), loss, resolution), resolution_points=resolution,
        flips=int((~right(reference, ours)).sum()),
    )  # fmt: skip


def _columns(truth: Answers, answers: Answers) -> NDArray[np.uint8]:
    """Return for each row and label whether the label is true, is given, and is both: (rows, 3, labels)."""
    if truth.ndim == 1:
        labels = np.arange(1 + max(int(truth.max()), int(answers.max())))
        wanted, given = truth[:, None] == labels, answers[:, None] == labels
    else:
        wanted, given = truth > 0, answers > 0
    return np.stack([wanted, given, wanted & given], axis=1).astype(np.uint8)


def _f1(sums: Floats, metric: F1Metric) -> Floats:
    """Return F1 (draws,) from sums of `_columns` (draws, 3, labels)."""
    if metric == "micro_f1":
        sums = sums.sum(axis=-1, keepdims=True)
    wanted, given, hits = sums[:, 0], sums[:, 1], sums[:, 2]
    occurs = wanted > 0.5
    values = np.where(occurs, 2 * hits / np.maximum(wanted + given, 1), 0)
    return np.asarray(values.sum(axis=1) / np.maximum(occurs.sum(axis=1), 1))


def _unseen(totals: Floats, wanted: NDArray[np.uint8], metric: F1Metric) -> float:
    """Return how much F1 (of `totals`, (3, labels)) may be lost without a sign of it on the rows (rows, labels)."""
    if metric == "micro_f1":
        rows, totals = np.array([wanted.any(axis=1).sum()]), totals.sum(axis=-1, keepdims=True)
    else:
        rows = wanted.sum(axis=0, dtype=np.int64)
    losses = []
    for count, (true, given, hits) in zip(rows, totals.T, strict=True):
        if count:
            lost = hits * unseen_share(int(count))
            losses.append(2 * hits / (true + given) - 2 * (hits - lost) / (true + given - lost))
    return float(np.sqrt(np.sum(np.square(losses))) / max(len(losses), 1))
