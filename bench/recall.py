"""What answers are worth label by label: recalls that collapse, and whether answers depend on the text at all."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.accuracy import Answers
from models.record import Record

COLLAPSED = 0.5  # of the reference's recall: less is a collapse
FEWEST_LOST = 2  # rows, net: one alone is chance, unless no row of the label is left


class LabelRecall(Record):
    """The share of a label's rows that two models give it to."""

    label: str
    rows: int  # that have the label
    reference_recall: float
    recall: float

    def sentence(self) -> str:
        """Return it for people."""
        was, now = (round(share * self.rows) for share in (self.reference_recall, self.recall))
        return f"label {self.label!r} is found in {now} of {self.rows} rows, by the full model in {was}"


def collapsed_labels(
    labels: Sequence[str], truth: Answers, reference: Answers, ours: Answers
) -> tuple[LabelRecall, ...]:
    """Return the labels of which less than half of the reference's recall is left, the worst first.

    Args:
        labels: names, in the order of the answers.
        truth: `Texts.targets` of the rows, of a task with labels.
        reference: `Task.decide` of the same rows, by the model that was there before.
        ours: the same by the model that shall replace it.
    """
    wanted, was, now = (_given(one, len(labels)) for one in (truth, reference, ours))
    rows, before, after = wanted.sum(axis=0), (wanted & was).sum(axis=0), (wanted & now).sum(axis=0)
    lost = before - after
    collapsed = (after < COLLAPSED * before) & ((lost >= FEWEST_LOST) | (after == 0))
    return tuple(
        LabelRecall(
            label=labels[place], rows=int(rows[place]), reference_recall=float(before[place] / rows[place]),
            recall=float(after[place] / rows[place]),
        )
        for place in sorted(np.flatnonzero(collapsed).tolist(), key=lambda place: -lost[place])
    )  # fmt: skip


def informedness(truth: Answers, answers: Answers) -> float:
    """Return how much answers tell about the labels: 1 if all are right, 0 for answers that ignore the text.

    It is balanced accuracy over its value for any constant answer: (mean recall - 1/K) / (1 - 1/K) for the K labels
    in `truth`; with several labels a row, the mean over the labels of recall + specificity - 1 (Youden's J). Unlike
    accuracy it does not rise with the share of the most frequent label. It is 0.0 where `truth` has one label only.

    Args:
        truth: label indices (rows,), or whether each label is true (rows, labels).
        answers: the same of a model.
    """
    if truth.ndim == 1:
        present = np.unique(truth)
        if len(present) < 2:
            return 0.0
        recall = np.mean([(answers[truth == label] == label).mean() for label in present])
        return float((recall - 1 / len(present)) / (1 - 1 / len(present)))
    wanted, given = truth > 0, answers > 0
    values = [given[w, j].mean() - given[~w, j].mean() for j, w in enumerate(wanted.T) if w.any() and not w.all()]
    return float(np.mean(values)) if values else 0.0


def chance_of(truth: Answers, answers: Answers, permutations: int = 999) -> float:
    """Return how often answers that ignore the text are as informative as these: a permutation test's p.

    The answers are dealt to the rows at random (Phipson and Smyth 2010: the answers as they are count as one deal).
    Arguments are those of `informedness`.
    """
    weights = _weights(truth)
    generator = np.random.default_rng(0)
    given = answers > 0 if truth.ndim > 1 else answers
    wanted = _worth(weights, given)
    dealt = (_worth(weights, generator.permutation(given)) for _ in range(permutations))
    return (1 + sum(worth >= wanted - 1e-12 for worth in dealt)) / (1 + permutations)


def _weights(truth: Answers) -> NDArray[np.float64]:
    """Return what a given label adds to informedness, up to a constant: (rows, labels)."""
    wanted = truth[:, None] == np.arange(int(truth.max()) + 1) if truth.ndim == 1 else truth > 0
    rows = wanted.sum(axis=0)
    weights = wanted / np.maximum(rows, 1)
    if truth.ndim > 1:
        weights = weights - ~wanted / np.maximum(len(wanted) - rows, 1)
        weights[:, (rows == 0) | (rows == len(wanted))] = 0
    return np.asarray(weights)


def _worth(weights: NDArray[np.float64], answers: Answers) -> float:
    if answers.ndim > 1:
        return float((weights * answers).sum())
    known = answers < weights.shape[1]  # a label that no row has adds nothing
    return float(weights[np.flatnonzero(known), answers[known]].sum())


def constant_answer(labels: Sequence[str], answers: Answers) -> str | None:
    """Return the answer that all rows get, for people; None: they get different ones."""
    if len(np.unique(answers, axis=0)) != 1:
        return None
    given = np.flatnonzero(_given(answers[:1], len(labels))[0]).tolist()
    return " and ".join(repr(labels[place]) for place in given) or "no label"


def _given(answers: Answers, labels: int) -> NDArray[np.bool_]:
    """Return whether each label is given, (rows, labels)."""
    if answers.ndim == 1:
        return np.asarray(answers[:, None] == np.arange(labels))
    return np.asarray(answers > 0)
