"""check_agreement(): the answers of two forms of one model → how far they are apart, or DisagreementError."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.correlation import pearson
from models.errors import DisagreementError
from models.record import Record
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
    """A metric of labelled rows: its name, and (truth, decisions) → its value, at most 1."""

    name: Labelled
    score: Callable[[NDArray[Any], NDArray[Any]], float]


class Agreement(Record):
    """How far a form of a model is from the model in fp32, on the same rows.

    `loss_points` is what the other form costs, in points; `loss_is` says how that was found. On labelled rows it is a
    metric: fp32's value minus that of the other form, in hundredths. `expected`: what changed rows cost when fp32's
    scores are taken for probabilities; it needs no labels, and its sampling error is smaller than that of a count.
    `expected_balanced`: the same as a mean over the labels that fp32 gives. `expected_pearson`: one minus the
    correlation of a regression's numbers with fp32's.
    """

    rows: int
    max_difference: float  # |Δlogit|
    mean_difference: float
    decisions: int  # rows; of a multi-label task rows x labels, of a regression none
    flips: int  # decisions that differ
    rows_changed: int  # rows with a decision that differs
    loss_points: float
    loss_is: LossIs
    reference_score: float | None = None  # of fp32 on labelled rows, in the metric that `loss_is` names
    score: float | None = None


def measure_agreement(
    task: Task, wanted: Logits, found: Logits, truth: NDArray[Any] | None = None, scorer: Scorer | None = None
) -> Agreement:
    """Compare logits (rows, labels) of fp32 and of another form.

    Args:
        task: what the logits mean.
        wanted: of fp32.
        found: of the other form, of the same shape.
        truth: `Texts.targets` of the rows, where they have labels.
        scorer: what is lost; None: the share of right rows (with several labels, of rows with all of them right), or
            Pearson's correlation. Without labels, `macro_f1` gives every label of fp32's decisions the same weight.
    """
    difference = np.abs(wanted - found)
    distances = {
        "rows": len(wanted), "max_difference": float(difference.max()), "mean_difference": float(difference.mean()),
    }  # fmt: skip
    if task.kind == "regression":
        distances |= {"decisions": 0, "flips": 0, "rows_changed": 0}
        return Agreement(**distances, **_loss_of_numbers(wanted[:, 0], found[:, 0], truth))
    scores = task.scores(wanted)
    before, after = task.decide(scores), task.decide(task.scores(found))
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
    scorer = scorer or Scorer("accuracy" if task.kind == "single" else "subset_accuracy", _right_rows)
    was, now = scorer.score(truth, before), scorer.score(truth, after)
    return Agreement(
        **distances, loss_points=100 * (was - now), loss_is=scorer.name, reference_score=was, score=now
    )  # fmt: skip


def check_agreement(agreement: Agreement, what: str, max_difference: float) -> Agreement:
    """Return `agreement` when no logit differs by more than `max_difference`.

    Raises:
        DisagreementError: one does, or is not a number.
    """
    if not agreement.max_difference <= max_difference:  # also true for NaN
        raise DisagreementError(
            f"{what}: logits differ by {agreement.max_difference:.2g}, at most {max_difference:.2g} was wanted; "
            f"{agreement.flips} of {agreement.decisions} decisions flip"
        )
    return agreement


def _loss_of_numbers(wanted: Logits, found: Logits, truth: NDArray[Any] | None) -> dict[str, Any]:
    """Return how much of a regression is lost, and in which unit; all arguments are (rows,)."""
    if truth is None:
        return {"loss_points": 100 * (1 - pearson(wanted, found)), "loss_is": "expected_pearson"}
    was, now = pearson(truth, wanted), pearson(truth, found)
    return {"loss_points": 100 * (was - now), "loss_is": "pearson", "reference_score": was, "score": now}


def _right_rows(truth: NDArray[Any], decisions: NDArray[Any]) -> float:
    same = truth == decisions
    return float((same if same.ndim == 1 else same.all(axis=1)).mean())


def _row_costs(task: Task, scores: Logits, after: NDArray[Any]) -> NDArray[np.float64]:
    """Return what each row loses with the decisions `after`, 0 to 1, by fp32's scores (rows, labels).

    One label: how much less likely it is than fp32's. Several: the cost of the worst decision that flips, which grows
    from 0 for a score at the label's threshold to 1 for a score of 0 or 1. (For a threshold of one half it is the
    difference of the two probabilities. A threshold t elsewhere says that a missed label costs (1 - t)/t times as
    much as a wrong one.) A row that loses one of its two labels is wrong, however many other labels there are.
    """
    if task.kind == "single":
        rows = np.arange(len(scores))
        return np.asarray(scores.max(axis=1) - scores[rows, after.astype(np.int64)], dtype=np.float64)
    limits = np.broadcast_to(np.asarray(task.thresholds or EVEN, dtype=np.float64), scores.shape)
    above, below = (scores - limits) / np.maximum(1 - limits, 1e-9), (limits - scores) / np.maximum(limits, 1e-9)
    flipped = task.decide(scores) != after
    return np.asarray((np.where(scores >= limits, above, below).clip(0, 1) * flipped).max(axis=1))
