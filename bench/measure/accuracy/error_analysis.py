"""quality(): error analysis of one model: confusion matrix, F1 by class, calibration, accuracy by length."""

import itertools

import numpy as np
from numpy.typing import NDArray

from bench.measure.accuracy.difference import Indices
from models.schema import Record
from models.task import Task

BINS = 10


class Bin(Record):
    """Rows whose highest score lies in one of ten equal bins; in a calibrated model confidence equals accuracy."""

    rows: int
    confidence: float
    accuracy: float


class Slice(Record):
    """Rows of similar length."""

    tokens: tuple[int, int]  # shortest and longest
    rows: int
    accuracy: float


class Quality(Record):
    """Details that a single accuracy does not show."""

    confusion: tuple[tuple[int, ...], ...]  # rows: true label; columns: predicted label
    class_f1: tuple[float | None, ...]  # None: the label does not occur
    calibration_error: float  # expected calibration error, ten equal bins (Guo et al. 2017)
    reliability: tuple[Bin, ...]
    slices: tuple[Slice, ...]


def quality(truth: Indices, logits: NDArray[np.float32], task: Task, lengths: Indices) -> Quality:
    """Return the error analysis of one model; `logits` is (rows, labels), `lengths` is in tokens."""
    # imported here, so that only code that computes scores loads scikit-learn
    from models.finetuning.metrics import score_classes

    answers = logits.argmax(1)
    scores = score_classes(task.labels, truth, answers)
    right = answers == truth
    bins = _bins(task.scores(logits).max(1), right)
    return Quality(
        confusion=scores.confusion,
        class_f1=tuple(label.f1 if label.support else None for label in scores.labels),
        calibration_error=sum(b.rows * abs(b.confidence - b.accuracy) for b in bins) / len(truth),
        reliability=tuple(bins),
        slices=tuple(_slices(right, lengths)),
    )


def _bins(confidence: NDArray[np.float32], right: NDArray[np.bool_]) -> list[Bin]:
    bin_numbers = np.minimum((confidence * BINS).astype(int), BINS - 1)
    groups = [bin_numbers == n for n in range(BINS)]
    return [
        Bin(rows=int(g.sum()), confidence=float(confidence[g].mean()), accuracy=float(right[g].mean()))
        for g in groups
        if g.any()
    ]


def _slices(right: NDArray[np.bool_], lengths: Indices) -> list[Slice]:
    """Split the rows at the quartiles of their lengths."""
    edges = np.unique(np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1]).astype(int))
    slices = []
    for low, high in itertools.pairwise(edges):
        chosen = (lengths >= low) & ((lengths < high) | (high == edges[-1]))
        if chosen.any():
            tokens = (int(lengths[chosen].min()), int(lengths[chosen].max()))
            slices.append(Slice(tokens=tokens, rows=int(chosen.sum()), accuracy=float(right[chosen].mean())))
    return slices or [Slice(tokens=(int(edges[0]),) * 2, rows=len(right), accuracy=float(right.mean()))]
