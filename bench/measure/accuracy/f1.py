"""compare_f1(): loss of macro or micro F1 between two models' answers to the same rows; f1_of(): F1 of one model."""

import numpy as np
from numpy.typing import NDArray

from bench.measure.accuracy.bootstrap import Floats, bca_interval
from bench.measure.accuracy.difference import Answers, Difference, F1Metric, right, widened
from bench.measure.accuracy.paired_interval import unseen_share


def f1_of(truth: Answers, answers: Answers, metric: F1Metric) -> float:
    """Return F1 of label indices (rows,) or of 0/1 labels (rows, labels); macro F1 is over the labels in `truth`."""
    columns = _columns(truth, answers, _label_count(truth, answers))
    return float(_f1(columns.sum(axis=0, dtype=np.float64)[None], metric)[0])


def compare_f1(truth: Answers, reference: Answers, ours: Answers, metric: F1Metric, seed: int = 0) -> Difference:
    """Return the paired difference of F1; points are hundredths of it.

    The interval is the 95 % BCa bootstrap over rows; both models are scored on the same draw. It is widened to the
    loss that these rows could not show: of each label's texts, ours may lose a share of which no row was seen
    (`bench.measure.accuracy.paired_interval.unseen_share` of that label's rows). The losses of the labels are added
    in squares, because the rows of different labels are independent.
    """
    labels = _label_count(truth, reference, ours)
    columns = np.stack([_columns(truth, one, labels) for one in (reference, ours)], axis=1)  # (rows, 2, 3, labels)
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


def _label_count(*answers: Answers) -> int:
    """Return the number of labels: of label indices (rows,) one more than the highest, or the columns."""
    return 1 + max(int(one.max()) for one in answers) if answers[0].ndim == 1 else answers[0].shape[1]


def _columns(truth: Answers, answers: Answers, labels: int) -> NDArray[np.uint8]:
    """Return for each row and label whether the label is true, is predicted, and is both: (rows, 3, labels)."""
    if truth.ndim == 1:
        indices = np.arange(labels)
        true, predicted = truth[:, None] == indices, answers[:, None] == indices
    else:
        true, predicted = truth > 0, answers > 0
    return np.stack([true, predicted, true & predicted], axis=1).astype(np.uint8)


def _f1(sums: Floats, metric: F1Metric) -> Floats:
    """Return F1 (draws,) from sums of `_columns` (draws, 3, labels)."""
    if metric == "micro_f1":
        sums = sums.sum(axis=-1, keepdims=True)
    true, predicted, hits = sums[:, 0], sums[:, 1], sums[:, 2]
    occurs = true > 0.5
    values = np.where(occurs, 2 * hits / np.maximum(true + predicted, 1), 0)
    return np.asarray(values.sum(axis=1) / np.maximum(occurs.sum(axis=1), 1))


def _unseen(totals: Floats, true: NDArray[np.uint8], metric: F1Metric) -> float:
    """Return the loss of F1 that these rows could not show.

    Args:
        totals: Sums of `_columns` over all rows, (3, labels).
        true: The true labels of each row, (rows, labels).
        metric: Macro or micro F1.
    """
    if metric == "micro_f1":
        rows, totals = np.array([true.any(axis=1).sum()]), totals.sum(axis=-1, keepdims=True)
    else:
        rows = true.sum(axis=0, dtype=np.int64)
    losses = []
    for count, (positives, predicted, hits) in zip(rows, totals.T, strict=True):
        if count:
            lost = hits * unseen_share(int(count))
            total = positives + predicted
            losses.append(2 * hits / total - 2 * (hits - lost) / (total - lost))
    return float(np.sqrt(np.sum(np.square(losses))) / max(len(losses), 1))
