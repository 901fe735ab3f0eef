"""Recall by label: labels whose recall collapsed, and answers that are the same for every text."""

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
