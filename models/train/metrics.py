"""score(): targets and scores → how good a model is, by kind of task; choose_thresholds(): where a label begins."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import confusion_matrix, f1_score, matthews_corrcoef, precision_recall_fscore_support

from models.correlation import varies
from models.errors import CheckError, InputError
from models.record import Record
from models.task import EVEN, Kind, Task

# What early stopping may watch, by kind; the first is the default. Greater is better, but for LOWER_IS_BETTER.
METRICS: dict[Kind, tuple[str, ...]] = {
    "single": ("accuracy", "macro_f1", "micro_f1", "matthews"),
    "multi": ("micro_f1", "macro_f1", "subset_accuracy"),
    "regression": ("spearman", "pearson", "rmse"),
}
LOWER_IS_BETTER = frozenset({"rmse"})
Scores = NDArray[np.float32]  # (rows, labels)


class LabelScore(Record):
    """How well one label is found; fractions are 0 to 1, and 0 where nothing was to be found or was found."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int  # rows that have the label
    threshold: float | None = None  # multi: the score from which the label was given


class SingleScore(Record):
    """Answers of one label a row."""

    kind: Literal["single"] = "single"
    rows: int
    accuracy: float
    macro_f1: float  # the mean over the labels that occur in the targets
    micro_f1: float  # equals accuracy; here because reports of other tools name it so
    matthews: float  # -1 to 1
    labels: tuple[LabelScore, ...]
    confusion: tuple[tuple[int, ...], ...]  # rows: the true label; columns: the answer


class MultiScore(Record):
    """Answers of any number of labels a row."""

    kind: Literal["multi"] = "multi"
    rows: int
    micro_f1: float  # over all (row, label) decisions
    macro_f1: float  # the mean over the labels that occur in the targets
    subset_accuracy: float  # rows whose labels are all right
    labels: tuple[LabelScore, ...]


class RegressionScore(Record):
    """Answers of one number a row."""

    kind: Literal["regression"] = "regression"
    rows: int
    pearson: float  # -1 to 1
    spearman: float  # -1 to 1
    rmse: float  # in the unit of the targets


Score = SingleScore | MultiScore | RegressionScore


def score(task: Task, targets: NDArray[Any], scores: Scores) -> Score:
    """Return how well `scores` answer `targets`.

    Pearson, Spearman and Matthews are undefined when the answers or the targets do not vary; they are 0.0 then,
    without a warning, because such answers tell nothing apart.

    Args:
        task: kind, labels and thresholds.
        targets: what `Texts.targets(task)` gives: (rows,) positions or numbers, or (rows, labels) of 0 and 1.
        scores: what `task.scores(logits)` gives, (rows, labels); for `single` logits do as well.

    Raises:
        InputError: there are no rows, the shapes do not fit, or scores of a `multi` task are no probabilities.
        CheckError: a score is not finite.
    """
    _check_shapes(task, targets, scores)
    if task.kind == "single":
        return score_classes(task.labels, targets, np.asarray(task.decide(scores)))
    if task.kind == "multi":
        return score_labels(task, targets, np.asarray(task.decide(scores)))
    return _regression(targets.astype(np.float64), np.asarray(task.decide(scores), dtype=np.float64))


def watchable(found: Score) -> dict[str, float]:
    """Return the numbers of METRICS by name."""
    return {name: float(getattr(found, name)) for name in METRICS[found.kind]}


def check_metric(kind: Kind, metric: str | None) -> str:
    """Return the name of the metric to watch: `metric`, or the kind's default when it is None.

    Raises:
        InputError: the kind has no such metric.
    """
    known = METRICS[kind]
    if metric is not None and metric not in known:
        raise InputError(f"{metric!r} is no metric of a {kind} task: wanted one of {', '.join(known)}")
    return metric or known[0]


def choose_thresholds(targets: NDArray[Any], probabilities: Scores) -> tuple[float, ...]:
    """Return each label's threshold: the score from which giving the label makes its F1 on these rows greatest.

    F1 changes only where a threshold passes a score, so that trying one between each two is exact; half way, because
    one on a score would be passed by rounding. Of equals the one nearest 0.5 is taken, and of two equally near the
    greater. A label that no row has keeps 0.5.

    Args:
        targets: (rows, labels) of 0 and 1.
        probabilities: (rows, labels), 0 to 1.

    Raises:
        InputError: there are no rows, the shapes differ, or a probability is none.
        CheckError: a probability is not finite.
    """
    if targets.shape != probabilities.shape or targets.ndim != 2 or not len(targets):
        raise InputError(f"targets {targets.shape}, probabilities {probabilities.shape}: wanted (rows, labels) twice")
    _check_finite(probabilities)
    _check_probabilities(probabilities)
    return tuple(_threshold(t.astype(bool), p) for t, p in zip(targets.T, probabilities.T, strict=True))


def _threshold(wanted: NDArray[np.bool_], probabilities: Scores) -> float:
    if not wanted.any():
        return EVEN
    order = np.argsort(-probabilities, kind="stable")
    falling = probabilities[order]
    last = np.append(falling[1:] != falling[:-1], True)  # rows of one score are given the label together
    given = (np.arange(len(falling)) + 1)[last]
    hits = np.cumsum(wanted[order])[last]
    f1 = 2 * hits / (given + wanted.sum())
    distinct = falling[last].astype(np.float64)
    between = (distinct + np.append(distinct[1:], 0.0)) / 2
    best = between[f1 == f1.max()]
    return float(best[np.argmin(np.abs(best - EVEN))])  # the first of equals, and they fall


def _check_shapes(task: Task, targets: NDArray[Any], scores: Scores) -> None:
    shape = (len(targets), len(task.labels))
    wanted = shape if task.kind == "multi" else shape[:1]
    if scores.shape != shape or targets.shape != wanted:
        raise InputError(f"targets {targets.shape}, scores {scores.shape}: wanted {wanted} and {shape}")
    if not len(targets):
        raise InputError("there are no rows to judge: wanted one or more")
    _check_finite(scores)
    if task.kind == "multi":
        _check_probabilities(scores)


def _check_probabilities(scores: Scores) -> None:
    if scores.min() < 0 or scores.max() > 1:
        raise InputError(
            f"scores are {scores.min():.3g} to {scores.max():.3g}: wanted 0 to 1, as task.scores() gives"
        )


def _check_finite(scores: Scores) -> None:
    wrong = int((~np.isfinite(scores)).any(axis=1).sum())
    if wrong:
        raise CheckError(f"{wrong} of {len(scores)} answers are not finite: the model is not usable")


def score_classes(names: Sequence[str], targets: NDArray[np.int64], answers: NDArray[np.int64]) -> SingleScore:
    """Return how good answers of one label a row are; both are positions in `names`, (rows,)."""
    places = np.arange(len(names))
    found = precision_recall_fscore_support(targets, answers, labels=places, zero_division=0)
    confusion = confusion_matrix(targets, answers, labels=places)
    both_vary = varies(targets) and varies(answers)
    return SingleScore(
        rows=len(targets),
        accuracy=float((answers == targets).mean()),
        macro_f1=_macro(found),
        micro_f1=float(f1_score(targets, answers, labels=places, average="micro", zero_division=0)),
        matthews=float(matthews_corrcoef(targets, answers)) if both_vary else 0.0,
        labels=_label_scores(names, found, [None] * len(places)),
        confusion=tuple(tuple(int(n) for n in row) for row in confusion),
    )


def score_labels(task: Task, targets: NDArray[Any], answers: NDArray[np.bool_]) -> MultiScore:
    """Return how good answers are that say for each label whether it is given; both are (rows, labels)."""
    targets = targets.astype(bool)
    columns = [
        precision_recall_fscore_support(t, a, labels=[True], zero_division=0)
        for t, a in zip(targets.T, answers.T, strict=True)
    ]  # label by label: scikit-learn takes a matrix of one column for two classes
    found = tuple(np.concatenate(part) for part in zip(*columns, strict=True))
    return MultiScore(
        rows=len(targets),
        micro_f1=float(f1_score(targets.ravel(), answers.ravel(), zero_division=0)),
        macro_f1=_macro(found),
        subset_accuracy=float((targets == answers).all(axis=1).mean()),
        labels=_label_scores(task.labels, found, task.thresholds or [EVEN] * len(task.labels)),
    )


def _regression(targets: NDArray[np.float64], answers: NDArray[np.float64]) -> RegressionScore:
    both_vary = varies(targets) and varies(answers)
    return RegressionScore(
        rows=len(targets),
        pearson=float(pearsonr(targets, answers).statistic) if both_vary else 0.0,
        spearman=float(spearmanr(targets, answers).statistic) if both_vary else 0.0,
        rmse=float(np.sqrt(np.mean((targets - answers) ** 2))),
    )


def _macro(found: tuple[Any, ...]) -> float:
    _, _, f1, support = found
    return float(f1[support > 0].mean()) if (support > 0).any() else 0.0


def _label_scores(
    names: Sequence[str], found: tuple[Any, ...], thresholds: Sequence[float | None]
) -> tuple[LabelScore, ...]:
    return tuple(
        LabelScore(label=label, precision=float(p), recall=float(r), f1=float(f), support=int(s), threshold=threshold)
        for label, threshold, p, r, f, s in zip(names, thresholds, *found, strict=True)
    )
