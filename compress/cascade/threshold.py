"""choose_threshold(): the loosest threshold of a gate that keeps the cascade's loss below a limit, with confidence.

The thresholds are tested one after the other, from the strictest to the loosest, and the tests end at the first one
that does not reject "the loss is above the limit" (fixed-sequence testing). So the probability that a threshold is
chosen whose loss is above the limit is at most 1 - confidence, however many there are. The order must not depend on
the rows of the test: it comes from texts that were held out of the gate's training.

Source: Angelopoulos, Bates, Candès, Jordan and Lei (2021), "Learn then Test"; Jazbec et al. (2024), "Fast yet Safe:
Early-Exiting with Risk Control". The p-values are exact for paired answers (`compress.cascade.loss_bound`).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.cascade.loss_bound import fewest_rows, shows, upper_limit

STEPS = 100  # thresholds of a path
CONFIDENCE = 0.95
LEAST_SHARE = 0.05  # of the texts: a gate that answers fewer saves nothing
Thresholds = tuple[float, ...]  # one for all labels, or one for each


@dataclass(frozen=True, slots=True)
class GateRows:
    """The answers to the rows on which a threshold is tested, each (rows,)."""

    label: NDArray[np.int64]  # of the gate
    confidence: NDArray[np.float64]
    student: NDArray[np.int64]  # label of the student
    reference: NDArray[np.int64]  # label of the model against which the loss is bounded
    truth: NDArray[np.int64]

    def answered(self, thresholds: Thresholds) -> NDArray[np.bool_]:
        """Return which rows the gate answers."""
        least = np.asarray(thresholds if len(thresholds) > 1 else thresholds[0])
        return np.asarray(self.confidence >= (least[self.label] if least.ndim else least))

    def cascade(self, thresholds: Thresholds) -> NDArray[np.int64]:
        """Return the labels of the cascade."""
        return np.where(self.answered(thresholds), self.label, self.student)

    def counts(self, thresholds: Thresholds) -> tuple[int, int]:
        """Return how many rows the cascade loses and wins against the reference."""
        before, after = self.reference == self.truth, self.cascade(thresholds) == self.truth
        return int((before & ~after).sum()), int((after & ~before).sum())

    def disagreements(self, thresholds: Thresholds) -> int:
        """Return the number of rows that the gate answers and the student answers with another label."""
        return int((self.answered(thresholds) & (self.label != self.student)).sum())


@dataclass(frozen=True, slots=True)
class Chosen:
    """A threshold and what the rows say about it."""

    thresholds: Thresholds
    share: float  # of the rows, that the gate answers
    lost: int  # rows that the cascade loses against the reference
    won: int
    rows: int

    def bound(self, level: float = CONFIDENCE) -> float:
        """Return the upper limit of the loss at this threshold, as a fraction."""
        return upper_limit(self.lost, self.won, self.rows, level)


@dataclass(frozen=True, slots=True)
class NoThreshold:
    """No threshold qualifies."""

    problem: str


def path_of(confidence: NDArray[np.float64]) -> list[Thresholds]:
    """Return thresholds, the strictest first; each answers 1/STEPS more of the held-out texts than the one before."""
    ranked = np.sort(confidence)[::-1]
    at = [min(math.ceil(len(ranked) * step / STEPS), len(ranked)) - 1 for step in range(1, STEPS + 1)]
    return [(float(one),) for one in dict.fromkeys(ranked[at].tolist())]


def choose_threshold(
    rows: GateRows, path: list[Thresholds], max_loss: float, level: float = CONFIDENCE
) -> Chosen | NoThreshold:
    """Return the last threshold of `path` before the first that may lose more than `max_loss` points.

    Args:
        rows: answers to labelled rows on which nothing else was chosen.
        path: thresholds, the strictest first.
        max_loss: points of accuracy, above 0 and below 100.
        level: probability that the loss of the chosen threshold is at most `max_loss`.
    """
    limit, count = max_loss / 100, len(rows.truth)
    chosen = None
    for thresholds in path:
        if not shows(*rows.counts(thresholds), count, limit, level):
            break
        chosen = thresholds
    if chosen is None:
        return NoThreshold(_why_not_one(rows, path[0], limit, level))
    share = float(rows.answered(chosen).mean())
    if share < LEAST_SHARE:
        return NoThreshold(
            f"{count} rows show that at most {max_loss:g} points are lost only if the gate answers no more than "
            f"{share:.1%} of the texts, and less than {LEAST_SHARE:.0%} saves nothing: give more rows, allow a larger"
            " --max-loss, or give more texts to learn from (--texts)"
        )
    return Chosen(chosen, share, *rows.counts(chosen), count)


def _why_not_one(rows: GateRows, strictest: Thresholds, limit: float, level: float) -> str:
    """Return why the first test did not reject, with the number of rows that it takes."""
    (lost, won), count = rows.counts(strictest), len(rows.truth)
    fewest, claim = (
        fewest_rows(limit, level),
        f"that at most {100 * limit:g} points are lost ({level:.0%} confidence)",
    )
    if count < fewest:
        return f"{count} rows do not show {claim}: it takes {fewest} rows, even if none is lost (and none won)"
    loss = (lost - won) / count
    if loss >= limit:
        return (
            f"{100 * loss:.2f} points are lost on {count} rows, even if the gate answers almost nothing: the student "
            f"loses them. Allow a larger --max-loss, or bound the loss against the student"
        )
    needed = math.ceil(2.706 * (lost + won) / (count * (limit - loss) ** 2))  # 1.645 standard errors
    return (
        f"{count} rows do not show {claim}: {lost} are lost and {won} won, even if the gate answers almost nothing. "
        f"It takes about {max(needed, count + 1)} rows"
    )
