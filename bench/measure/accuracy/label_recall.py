"""Recall by label: labels whose recall collapsed, and whether predictions depend on the text at all."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.measure.accuracy.difference import Answers
from models.schema import Record

COLLAPSED = 0.5  # share of the reference's recall below which a label has collapsed
FEWEST_LOST = 2  # rows, net: a single lost row is chance, unless it was the label's last one


class LabelRecall(Record):
    """Recall of one label: the share of its rows to which each of two models gives the label."""

    label: str
    rows: int  # that have the label
    reference_recall: float
    recall: float

    def sentence(self) -> str:
        """Return the recalls as a sentence."""
        before, after = (round(share * self.rows) for share in (self.reference_recall, self.recall))
        return f"label {self.label!r} is found in {after} of {self.rows} rows, by the full model in {before}"


def collapsed_labels(
    labels: Sequence[str], truth: Answers, reference: Answers, ours: Answers
) -> tuple[LabelRecall, ...]:
    """Return the labels that keep less than half of the reference's recall, the worst first.

    Args:
        labels: Names, in the order of the answers.
        truth: `Texts.targets` of the rows, of a task with labels.
        reference: `Task.decide` of the same rows, by the original model.
        ours: The same, by the model that will replace it.
    """
    true, old, new = (_as_matrix(answers, len(labels)) for answers in (truth, reference, ours))
    rows, before, after = true.sum(axis=0), (true & old).sum(axis=0), (true & new).sum(axis=0)
    lost = before - after
    collapsed = (after < COLLAPSED * before) & ((lost >= FEWEST_LOST) | (after == 0))
    return tuple(
        LabelRecall(
            label=labels[i], rows=int(rows[i]), reference_recall=float(before[i] / rows[i]),
            recall=float(after[i] / rows[i]),
        )
        for i in sorted(np.flatnonzero(collapsed).tolist(), key=lambda i: -lost[i])
    )  # fmt: skip


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


def constant_answer(labels: Sequence[str], answers: Answers) -> str | None:
    """Return the name of the answer if all rows have the same one, else None."""
    if len(np.unique(answers, axis=0)) != 1:
        return None
    predicted = np.flatnonzero(_as_matrix(answers[:1], len(labels))[0]).tolist()
    return " and ".join(repr(labels[i]) for i in predicted) or "no label"


def _as_matrix(answers: Answers, labels: int) -> NDArray[np.bool_]:
    """Return answers as one bool for each row and label, (rows, labels)."""
    if answers.ndim == 1:
        return np.asarray(answers[:, None] == np.arange(labels))
    return np.asarray(answers > 0)
