"""check_agreement(): the answers of two forms of one model → how far they are apart, or DisagreementError."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.correlation import pearson
from models.errors import DisagreementError
from models.record import Record
from models.task import Task

Logits = NDArray[np.float32]


LossIs = Literal["accuracy", "expected", "pearson", "expected_pearson"]
LOSS_NAMES: dict[LossIs, str] = {
    "accuracy": "accuracy", "expected": "expected accuracy", "pearson": "Pearson's correlation",
    "expected_pearson": "expected correlation",
}  # fmt: skip


class Agreement(Record):
    """How far a form of a model is from the model in fp32, on the same rows.

    `loss_points` is what the other form costs, in points; `loss_is` says how that was found. `accuracy`: right
    decisions of fp32 minus its own, on labelled rows. `expected`: what flipped decisions cost when fp32's scores are
    taken for probabilities; it needs no labels, and wavers less than counting them. Of a regression, `pearson`: the
    correlation of fp32 with the labels minus its own, in hundredths; `expected_pearson`: the same when fp32's numbers
    are taken for the labels.
    """

    rows: int
    max_difference: float  # |Δlogit|
    mean_difference: float
    decisions: int  # rows; of a multi-label task rows x labels, of a regression none
    flips: int  # decisions that differ
    loss_points: float
    loss_is: LossIs
    reference_accuracy: float | None = None  # share of right decisions, where the rows have labels
    accuracy: float | None = None
    reference_pearson: float | None = None  # of a regression's numbers, where the rows have labels
    pearson: float | None = None


def measure_agreement(
    task: Task, wanted: Logits, found: Logits, truth: NDArray[np.generic] | None = None
) -> Agreement:
    """Compare logits (rows, labels) of fp32 and of another form.

    Args:
        task: what the logits mean.
        wanted: of fp32.
        found: of the other form, of the same shape.
        truth: `Texts.targets` of the rows, where they have labels.
    """
    difference = np.abs(wanted - found)
    told = {
        "rows": len(wanted), "max_difference": float(difference.max()), "mean_difference": float(difference.mean()),
    }  # fmt: skip
    if task.kind == "regression":
        return Agreement(**told, decisions=0, flips=0, **_loss_of_numbers(wanted[:, 0], found[:, 0], truth))
    scores = task.scores(wanted)
    before, after = task.decide(scores), task.decide(task.scores(found))
    flipped = before != after
    told |= {"decisions": int(flipped.size), "flips": int(flipped.sum())}
    if truth is None:
        loss = 100 * float((_margins(task, scores, after) * flipped).mean())
        return Agreement(**told, loss_points=loss, loss_is="expected")
    was, now = float((before == truth).mean()), float((after == truth).mean())
    return Agreement(
        **told, loss_points=100 * (was - now), loss_is="accuracy", reference_accuracy=was, accuracy=now
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


def _loss_of_numbers(wanted: Logits, found: Logits, truth: NDArray[np.generic] | None) -> dict[str, Any]:
    """Return how much of a regression is lost, and in which unit; all arguments are (rows,)."""
    if truth is None:
        return {"loss_points": 100 * (1 - pearson(wanted, found)), "loss_is": "expected_pearson"}
    was, now = pearson(truth, wanted), pearson(truth, found)
    return {"loss_points": 100 * (was - now), "loss_is": "pearson", "reference_pearson": was, "pearson": now}


def _margins(task: Task, scores: Logits, after: NDArray[np.generic]) -> Logits:
    """Return how much less likely than fp32's decision the other one is, by fp32's scores."""
    if task.kind == "multi":
        return np.abs(2 * scores - 1)
    rows = np.arange(len(scores))
    return np.asarray(scores.max(axis=1) - scores[rows, after.astype(np.int64)])
