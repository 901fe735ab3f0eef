"""Compare the logits of an exported model with those of the fp32 model.

measure_agreement() returns an `Agreement`; check_agreement() raises DisagreementError when logits differ too much.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.errors import DisagreementError
from models.finetuning.pearson import pearson
from models.schema import Record
from models.task import EVEN, Task

Logits = NDArray[np.float32]
Labelled = Literal["accuracy", "subset_accuracy", "macro_f1", "micro_f1", "pearson"]
LossIs = Literal[Labelled, "expected", "expected_balanced", "expected_pearson"]
LOSS_NAMES: dict[LossIs, str] = {
    "accuracy": "accuracy", "subset_accuracy": "subset accuracy", "macro_f1": "macro F1", "micro_f1": "micro F1",
    "pearson": "Pearson's correlation", "expected": "expected accuracy",
    "expected_balanced": "expected accuracy, each label with the same weight",
    "expected_pearson": "expected correlation",
}  # fmt: skip


class Scorer(NamedTuple):
    """A metric of labelled rows: its name, and a function of (truth, decisions) that returns its value, at most 1."""

    name: Labelled
    score: Callable[[NDArray[Any], NDArray[Any]], float]


class Agreement(Record):
    """Difference between the exported (for example int8) model and the fp32 model on the same rows.

    `loss_points` is the quality loss of the exported model in points (hundredths); `loss_is` names how it was
    measured. On labelled rows it is a metric: the value of fp32 minus the value of the exported model. `expected`:
    the cost of the changed rows when the fp32 scores are read as probabilities; it needs no labels, and its sampling
    error is smaller than that of a count. `expected_balanced`: the same, averaged over the labels that fp32 predicts.
    `expected_pearson`: one minus the correlation of a regression's predictions with those of fp32.
    """

    rows: int
    max_difference: float  # of logits, absolute
    mean_difference: float
    decisions: int  # rows; for a multi-label task rows x labels; for a regression 0
    flips: int  # decisions that differ
    rows_changed: int  # rows with at least one decision that differs
    loss_points: float
    loss_is: LossIs
    reference_score: float | None = None  # of fp32 on labelled rows, in the metric named by `loss_is`
    score: float | None = None


def measure_agreement(
    task: Task,
    reference: Logits,
    candidate: Logits,
    truth: NDArray[Any] | None = None,
    scorer: Scorer | None = None,
) -> Agreement:
    """Compare the logits (rows, labels) of an exported model with those of the fp32 model.

    Args:
        task: kind of task, labels and thresholds.
        reference: logits of the fp32 model.
        candidate: logits of the exported model, of the same shape.
        truth: `Texts.targets` of the rows; None: the rows have no labels.
        scorer: metric of the loss; None: accuracy (for a multi-label task the share of rows with all labels right),
            or Pearson's correlation for a regression. Without labels, `macro_f1` gives every label that fp32 predicts
            the same weight.
    """
    difference = np.abs(reference - candidate)
    distances = {
        "rows": len(reference), "max_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
    }  # fmt: skip
    if task.kind == "regression":
        distances |= {"decisions": 0, "flips": 0, "rows_changed": 0}
        scored = task.scores(reference)[:, 0], task.scores(candidate)[:, 0]
        return Agreement(**distances, **_regression_loss(*scored, truth))
    scores = task.scores(reference)
    before, after = task.decide(scores), task.decide(task.scores(candidate))
    flipped = before != after
    changed = flipped if flipped.ndim == 1 else flipped.any(axis=1)
    distances |= {"decisions": int(flipped.size), "flips": int(flipped.sum()), "rows_changed": int(changed.sum())}
    if truth is None:
        balanced = scorer is not None and scorer.name == "macro_f1" and task.kind == "single"
        costs = _row_costs(task, scores, after)
        loss = np.mean([costs[before == label].mean() for label in np.unique(before)]) if balanced else costs.mean()
        return Agreement(
            **distances, loss_points=100 * float(loss), loss_is="expected_balanced" if balanced else "expected"
        )
    scorer = scorer or Scorer("accuracy" if task.kind == "single" else "subset_accuracy", _exact_match)
    reference_score, score = scorer.score(truth, before), scorer.score(truth, after)
    return Agreement(
        **distances, loss_points=100 * (reference_score - score), loss_is=scorer.name,
        reference_score=reference_score, score=score,
    )  # fmt: skip


def check_agreement(agreement: Agreement, what: str, max_difference: float) -> Agreement:
    """Return `agreement` if no logit differs by more than `max_difference`.

    Args:
        agreement: the comparison to check.
        what: name of the exported model in the error message.
        max_difference: largest absolute difference of two logits that is allowed.

    Raises:
        DisagreementError: a logit differs by more, or is NaN.
    """
    if not agreement.max_difference <= max_difference:  # the negation also catches NaN
        raise DisagreementError(
            f"{what}: logits differ by {agreement.max_difference:.2g}, at most {max_difference:.2g} is allowed; "
            f"{agreement.flips} of {agreement.decisions} decisions flip"
        )
    return agreement


def _regression_loss(reference: Logits, candidate: Logits, truth: NDArray[Any] | None) -> dict[str, Any]:
    """Return the loss fields of an `Agreement` for a regression; all arguments are (rows,)."""
    if truth is None:
        return {"loss_points": 100 * (1 - pearson(reference, candidate)), "loss_is": "expected_pearson"}
    reference_score, score = pearson(truth, reference), pearson(truth, candidate)
    return {
        "loss_points": 100 * (reference_score - score), "loss_is": "pearson",
        "reference_score": reference_score, "score": score,
    }  # fmt: skip


def _exact_match(truth: NDArray[Any], decisions: NDArray[Any]) -> float:
    """Return the share of rows whose decisions are all right."""
    same = truth == decisions
    return float((same if same.ndim == 1 else same.all(axis=1)).mean())


def _row_costs(task: Task, scores: Logits, after: NDArray[Any]) -> NDArray[np.float64]:
    """Return the expected cost of the decisions `after` per row, 0 to 1, given the scores of fp32 (rows, labels).

    Single-label: the probability of the label that fp32 predicts minus that of the new label. Multi-label: the cost
    of the worst flipped decision, which grows from 0 for a score at the label's threshold to 1 for a score of 0 or 1.
    (For a threshold of one half it is the difference of the two probabilities. Another threshold t means that a
    missed label costs (1 - t)/t times as much as a wrong one.) The worst decision counts, not the mean: a row that
    loses one of its two labels is wrong, however many other labels the task has.
    """
    if task.kind == "single":
        rows = np.arange(len(scores))
        return np.asarray(scores.max(axis=1) - scores[rows, after.astype(np.int64)], dtype=np.float64)
    thresholds = np.broadcast_to(np.asarray(task.thresholds or EVEN, dtype=np.float64), scores.shape)
    above = (scores - thresholds) / np.maximum(1 - thresholds, 1e-9)
    below = (thresholds - scores) / np.maximum(thresholds, 1e-9)
    flipped = task.decide(scores) != after
    return np.asarray((np.where(scores >= thresholds, above, below).clip(0, 1) * flipped).max(axis=1))
