"""informedness(): how much answers tell about the labels, however unequal these are; chance_of(): whether by chance.

Accuracy does not say it: where 95 of 100 rows have one label, an honest model may be right less often than the answer
that ignores the text.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Answers = NDArray[Any]  # label indices (rows,), or 0 or 1 for each label (rows, labels)


def informedness(truth: Answers, answers: Answers) -> float:
    """Return how much the answers tell about the labels: 1 if all are right, 0 for answers that ignore the text.

    It is balanced accuracy, rescaled so that any constant answer gives 0: (mean recall - 1/K) / (1 - 1/K) for the K
    labels in `truth`. For multi-label tasks it is the mean over the labels of recall + specificity - 1 (Youden's J).
    Unlike accuracy, it does not rise with the share of the most frequent label. It is 0.0 where `truth` has only one
    label.

    Args:
        truth: Label indices (rows,), or whether each label is true (rows, labels).
        answers: The model's answers in the same form.
    """
    if truth.ndim == 1:
        present = np.unique(truth)
        if len(present) < 2:
            return 0.0
        recall = np.mean([(answers[truth == label] == label).mean() for label in present])
        return float((recall - 1 / len(present)) / (1 - 1 / len(present)))
    predicted = answers > 0
    values = [
        predicted[t, j].mean() - predicted[~t, j].mean()
        for j, t in enumerate((truth > 0).T)
        if t.any() and not t.all()
    ]
    return float(np.mean(values)) if values else 0.0


def chance_of(truth: Answers, answers: Answers, permutations: int = 999) -> float:
    """Return the p-value of a permutation test: how often answers that ignore the text are as informative as these.

    The answers are permuted over the rows (Phipson and Smyth 2010: the original order counts as one permutation).
    `truth` and `answers` are those of `informedness`.
    """
    weights = _weights(truth)
    generator = np.random.default_rng(0)
    predicted = answers > 0 if truth.ndim > 1 else answers
    observed = _statistic(weights, predicted)
    permuted = (_statistic(weights, generator.permutation(predicted)) for _ in range(permutations))
    return (1 + sum(value >= observed - 1e-12 for value in permuted)) / (1 + permutations)


def _weights(truth: Answers) -> NDArray[np.float64]:
    """Return what each predicted label adds to informedness, up to a constant: (rows, labels)."""
    true = truth[:, None] == np.arange(int(truth.max()) + 1) if truth.ndim == 1 else truth > 0
    rows = true.sum(axis=0)
    weights = true / np.maximum(rows, 1)
    if truth.ndim > 1:
        weights = weights - ~true / np.maximum(len(true) - rows, 1)
        weights[:, (rows == 0) | (rows == len(true))] = 0
    return np.asarray(weights)


def _statistic(weights: NDArray[np.float64], answers: Answers) -> float:
    """Return the informedness of answers, up to a constant."""
    if answers.ndim > 1:
        return float((weights * answers).sum())
    known = answers < weights.shape[1]  # labels that occur in no row add nothing
    return float(weights[np.flatnonzero(known), answers[known]].sum())
