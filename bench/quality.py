"""quality(): where one model is right and wrong: confusion, classes, calibration, lengths."""

import itertools

import numpy as np
from numpy.typing import NDArray

from bench.accuracy import Indices
from models.record import Record
from models.task import Task

BINS = 10


class Bin(Record):
    """Rows whose highest score lies in one tenth; calibrated means that confidence equals accuracy."""

    rows: int
    confidence: float
    accuracy: float


class Slice(Record):
    """Rows of like length."""

    tokens: tuple[int, int]
    rows: int
    accuracy: float


class Quality(Record):
    """What accuracy hides."""

    confusion: tuple[tuple[int, ...], ...]  # rows: the true label; columns: the answer
    class_f1: tuple[float | None, ...]  # None: the label does not occur
    calibration_error: float  # expected calibration error, ten equal bins (Guo et al. 2017)
    reliability: tuple[Bin, ...]
    slices: tuple[Slice, ...]


def quality(truth: Indices, logits: NDArray[np.float32], task: Task, lengths: Indices) -> Quality:
    """Return the details of one model's answers; `logits` is (rows, labels), `lengths` in tokens."""
    from models.train.metrics import score_classes  # here: scikit-learn is loaded by what judges, and by nothing else

    answers = logits.argmax(1)
    found = score_classes(task.labels, truth, answers)
    right = answers == truth
    bins = _bins(task.scores(logits).max(1), right)
    return Quality(
        confusion=found.confusion,
        class_f1=tuple(one.f1 if one.support else None for one in found.labels),
        calibration_error=sum(b.rows * abs(b.confidence - b.accuracy) for b in bins) / len(truth),
        reliability=tuple(bins),
        slices=tuple(_slices(right, lengths)),
    )


def _bins(confidence: NDArray[np.float32], right: NDArray[np.bool_]) -> list[Bin]:
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    groups = [place == n for n in range(BINS)]
    return [
        Bin(rows=int(g.sum()), confidence=float(confidence[g].mean()), accuracy=float(right[g].mean()))
        for g in groups
        if g.any()
    ]


def _slices(right: NDArray[np.bool_], lengths: Indices) -> list[Slice]:
    edges = np.unique(np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1]).astype(int))
    found = []
    for low, high in itertools.pairwise(edges):
        chosen = (lengths >= low) & ((lengths < high) | (high == edges[-1]))
        if chosen.any():
            here = lengths[chosen]
            tokens = (int(here.min()), int(here.max()))
            found.append(Slice(tokens=tokens, rows=int(chosen.sum()), accuracy=float(right[chosen].mean())))
    return found or [Slice(tokens=(int(edges[0]),) * 2, rows=len(right), accuracy=float(right.mean()))]
