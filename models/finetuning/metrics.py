"""score(): the metrics of a model's scores, by kind of task; choose_thresholds(): a decision threshold per label."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import confusion_matrix, f1_score, matthews_corrcoef, precision_recall_fscore_support

from models.errors import CheckError, InputError
from models.finetuning.pearson import varies
from models.schema import Record
from models.task import EVEN, Kind, Task

# Metrics that early stopping can watch, by kind; the first is the default. Higher is better except LOWER_IS_BETTER.
METRICS: dict[Kind, tuple[str, ...]] = {
    "single": ("accuracy", "macro_f1", "micro_f1", "matthews"),
    "multi": ("micro_f1", "macro_f1", "subset_accuracy"),
    "regression": ("spearman", "pearson", "rmse"),
}
LOWER_IS_BETTER = frozenset({"rmse"})
CORRELATIONS = frozenset({"spearman", "pearson", "matthews"})
Scores = NDArray[np.float32]  # (rows, labels)


class LabelScore(Record):
    """Precision, recall and F1 of one label: 0 to 1, and 0 if the denominator is 0."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int  # rows that have the label
    threshold: float | None = None  # multi: the label is assigned from this score on


class SingleScore(Record):
    """Metrics of a single-label task."""

    kind: Literal["single"] = "single"
    rows: int
    accuracy: float
    macro_f1: float  # the mean over the labels that occur in the targets
    micro_f1: float  # equal to accuracy; included because other tools report it under this name
    matthews: float  # -1 to 1
    labels: tuple[LabelScore, ...]
    confusion: tuple[tuple[int, ...], ...]  # rows: the true label; columns: the predicted label


class MultiScore(Record):
    """Metrics of a multi-label task."""

    kind: Literal["multi"] = "multi"
    rows: int
    micro_f1: float  # over all (row, label) decisions
    macro_f1: float  # the mean over the labels that occur in the targets
    subset_accuracy: float  # share of the rows whose labels are all correct
    labels: tuple[LabelScore, ...]


class RegressionScore(Record):
    """Metrics of a regression."""

    kind: Literal["regression"] = "regression"
    rows: int
    pearson: float  # -1 to 1
    spearman: float  # -1 to 1
    rmse: float  # in the unit of the targets


Score = SingleScore | MultiScore | RegressionScore


def score(task: Task, targets: NDArray[Any], scores: Scores) -> Score:
    """Return the metrics of `scores` against `targets`.

    Pearson, Spearman and Matthews are undefined if the predictions or the targets do not vary. They are 0.0 then,
    without a warning, because constant predictions do not distinguish between texts.

    Args:
        task: kind, labels and thresholds.
        targets: result of `Texts.targets(task)`: (rows,) label indices or numbers, or (rows, labels) of 0 and 1.
        scores: result of `task.scores(logits)`, (rows, labels); for `single` logits are accepted, too.

    Raises:
        InputError: there are no rows, the shapes do not fit, or scores of a `multi` task are outside 0 to 1.
        CheckError: a score is not finite.
    """
    _check_shapes(task, targets, scores)
    if task.kind == "single":
        return score_classes(task.labels, targets, np.asarray(task.decide(scores)))
    if task.kind == "multi":
        return score_labels(task, targets, np.asarray(task.decide(scores)))
    return _regression(targets.astype(np.float64), np.asarray(task.decide(scores), dtype=np.float64))


def metric_values(scores: Score) -> dict[str, float]:
    """Return the value of each metric in METRICS, by name."""
    return {name: float(getattr(scores, name)) for name in METRICS[scores.kind]}


def check_metric(kind: Kind, metric: str | None) -> str:
    """Return the name of the metric to watch: `metric`, or the default of the kind if it is None.

    Raises:
        InputError: the kind has no such metric.
    """
    known = METRICS[kind]
    if metric is not None and metric not in known:
        raise InputError(f"unknown metric {metric!r} for a {kind} task; choose from {', '.join(known)}")
    return metric or known[0]


def standard_error(metric: str, value: float, rows: int) -> float:
    """Return about the standard error of a metric's value on `rows` rows, in the unit of the metric.

    That of a correlation is Fisher's (1915), that of the root of a mean square that of normal errors; shares of rows
    and F1 are treated as shares of independent rows.
    """
    if metric in CORRELATIONS:
        return (1 - min(value**2, 1.0)) / math.sqrt(rows)
    if metric in LOWER_IS_BETTER:
        return value / math.sqrt(2 * rows)
    share = min(max(value, 0.0), 1.0)
    return math.sqrt(share * (1 - share) / rows)


def choose_thresholds(targets: NDArray[Any], probabilities: Scores) -> tuple[float, ...]:
    """Return the threshold of each label that maximizes its F1 on these rows.

    F1 changes only when a threshold crosses a score, so it is exact to try one threshold between each two consecutive
    scores. It lies half way between them, because rounding could change the decision for a score that equals the
    threshold. Among thresholds of equal F1 the one nearest to 0.5 is selected, and among two equally near ones the
    greater. A label that no row has keeps 0.5.

    Args:
        targets: (rows, labels) of 0 and 1.
        probabilities: (rows, labels), 0 to 1.

    Raises:
        InputError: there are no rows, the shapes differ, or a probability is outside 0 to 1.
        CheckError: a probability is not finite.
    """
    if targets.shape != probabilities.shape or targets.ndim != 2 or not len(targets):
        raise InputError(f"targets {targets.shape}, probabilities {probabilities.shape}: wanted (rows, labels) twice")
    _check_finite(probabilities)
    _check_probabilities(probabilities)
    return tuple(_threshold(t.astype(bool), p) for t, p in zip(targets.T, probabilities.T, strict=True))


def _threshold(has_label: NDArray[np.bool_], probabilities: Scores) -> float:
    if not has_label.any():
        return EVEN
    order = np.argsort(-probabilities, kind="stable")
    descending = probabilities[order]
    last = np.append(descending[1:] != descending[:-1], True)  # rows of equal score get the label together
    predicted = (np.arange(len(descending)) + 1)[last]
    true_positives = np.cumsum(has_label[order])[last]
    f1 = 2 * true_positives / (predicted + has_label.sum())
    distinct = descending[last].astype(np.float64)
    midpoints = (distinct + np.append(distinct[1:], 0.0)) / 2
    best = midpoints[f1 == f1.max()]
    return float(best[np.argmin(np.abs(best - EVEN))])  # argmin returns the first of equals: the greater threshold


def _check_shapes(task: Task, targets: NDArray[Any], scores: Scores) -> None:
    shape = (len(targets), len(task.labels))
    target_shape = shape if task.kind == "multi" else shape[:1]
    if scores.shape != shape or targets.shape != target_shape:
        raise InputError(f"targets {targets.shape}, scores {scores.shape}: wanted {target_shape} and {shape}")
    if not len(targets):
        raise InputError("there are no rows to score: wanted one or more")
    _check_finite(scores)
    if task.kind == "multi":
        _check_probabilities(scores)


def _check_probabilities(scores: Scores) -> None:
    if scores.min() < 0 or scores.max() > 1:
        raise InputError(
            f"scores are {scores.min():.3g} to {scores.max():.3g}: wanted 0 to 1, as task.scores() gives"
        )


def _check_finite(scores: Scores) -> None:
    invalid = int((~np.isfinite(scores)).any(axis=1).sum())
    if invalid:
        raise CheckError(f"{invalid} of {len(scores)} answers are not finite: the model is not usable")


def score_classes(names: Sequence[str], targets: NDArray[np.int64], answers: NDArray[np.int64]) -> SingleScore:
    """Return the metrics of single-label predictions; both arrays are indices into `names`, (rows,)."""
    indices = np.arange(len(names))
    by_label = precision_recall_fscore_support(targets, answers, labels=indices, zero_division=0)
    confusion = confusion_matrix(targets, answers, labels=indices)
    both_vary = varies(targets) and varies(answers)
    return SingleScore(
        rows=len(targets),
        accuracy=float((answers == targets).mean()),
        macro_f1=_macro_f1(by_label),
        micro_f1=float(f1_score(targets, answers, labels=indices, average="micro", zero_division=0)),
        matthews=float(matthews_corrcoef(targets, answers)) if both_vary else 0.0,
        labels=_label_scores(names, by_label, [None] * len(indices)),
        confusion=tuple(tuple(int(n) for n in row) for row in confusion),
    )


def score_labels(task: Task, targets: NDArray[Any], answers: NDArray[np.bool_]) -> MultiScore:
    """Return the metrics of multi-label predictions; both arrays are (rows, labels), True: has the label."""
    targets = targets.astype(bool)
    columns = [  # label by label: scikit-learn treats a matrix of one column as two classes
        precision_recall_fscore_support(t, a, labels=[True], zero_division=0)
        for t, a in zip(targets.T, answers.T, strict=True)
    ]
    by_label = tuple(np.concatenate(part) for part in zip(*columns, strict=True))
    return MultiScore(
        rows=len(targets),
        micro_f1=float(f1_score(targets.ravel(), answers.ravel(), zero_division=0)),
        macro_f1=_macro_f1(by_label),
        subset_accuracy=float((targets == answers).all(axis=1).mean()),
        labels=_label_scores(task.labels, by_label, task.thresholds or [EVEN] * len(task.labels)),
    )


def _regression(targets: NDArray[np.float64], answers: NDArray[np.float64]) -> RegressionScore:
    both_vary = varies(targets) and varies(answers)
    return RegressionScore(
        rows=len(targets),
        pearson=float(pearsonr(targets, answers).statistic) if both_vary else 0.0,
        spearman=float(spearmanr(targets, answers).statistic) if both_vary else 0.0,
        rmse=float(np.sqrt(np.mean((targets - answers) ** 2))),
    )


def _macro_f1(by_label: tuple[Any, ...]) -> float:
    _, _, f1, support = by_label
    return float(f1[support > 0].mean()) if (support > 0).any() else 0.0


def _label_scores(
    names: Sequence[str], by_label: tuple[Any, ...], thresholds: Sequence[float | None]
) -> tuple[LabelScore, ...]:
    return tuple(
        LabelScore(label=label, precision=float(p), recall=float(r), f1=float(f), support=int(s), threshold=threshold)
        for label, threshold, p, r, f, s in zip(names, thresholds, *by_label, strict=True)
    )
