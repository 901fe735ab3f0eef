"""judge() and judge_loss(): what answers are worth, by kind of task: the share of right rows, or a correlation."""

import numpy as np

from bench.accuracy import Answers, Difference, Metric, Score, SubsetScore, compare, right, score
from bench.correlation import NumberScore, compare_numbers, score_numbers
from bench.f1 import compare_f1, f1_of
from models.correlation import pearson
from models.errors import InputError
from models.task import Kind, Task

METRICS: dict[Kind, Metric] = {"single": "accuracy", "multi": "subset_accuracy", "regression": "pearson"}
CHOICES: dict[Kind, tuple[Metric, ...]] = {  # what may guard a compression; the first is the default
    "single": ("accuracy", "macro_f1"), "multi": ("subset_accuracy", "micro_f1", "macro_f1"),
    "regression": ("pearson",),
}  # fmt: skip
NAMES: dict[Metric, str] = {
    "accuracy": "accuracy", "subset_accuracy": "subset accuracy", "pearson": "Pearson's correlation",
    "macro_f1": "macro F1", "micro_f1": "micro F1",
}  # fmt: skip
HEADS: dict[Metric, list[str]] = {
    "accuracy": ["accuracy", "macro F1"], "subset_accuracy": ["subset accuracy", "micro F1"],
    "pearson": ["Pearson", "Spearman"],
}  # fmt: skip
AnyScore = Score | SubsetScore | NumberScore
SAME = 0.01  # of the spread of its answers: a number that moves by less counts as the same answer


def choose_metric(kind: Kind, metric: str | None) -> Metric:
    """Return the metric of that name, or the kind's own when it is None.

    Raises:
        InputError: a loss of a task of this kind is not measured in it.
    """
    known = CHOICES[kind]
    if metric is None:
        return known[0]
    for one in known:
        if one == metric:
            return one
    raise InputError(f"--metric is {metric!r}: of a {kind} task there are {', '.join(known)}")


def judge(kind: Kind, truth: Answers, answers: Answers, metric: Metric | None = None) -> float:
    """Return the value of a metric: by default the share of right rows, each with all its labels, or a correlation.

    Args:
        kind: of the task.
        truth: `Texts.targets` of the rows.
        answers: `Task.decide` of the same rows.
        metric: one of CHOICES; None: the kind's own.
    """
    if kind == "regression":
        return pearson(truth, answers)
    if metric == "macro_f1" or metric == "micro_f1":
        return f1_of(truth, answers, metric)
    return float(right(truth, answers).mean())


def judge_loss(
    kind: Kind, truth: Answers, reference: Answers, ours: Answers, metric: Metric | None = None
) -> Difference:  # fmt: skip
    """Return what is lost between two models' answers to the same rows; arguments are those of `judge`."""
    if kind == "regression":
        return compare_numbers(truth, reference, ours)
    if metric == "macro_f1" or metric == "micro_f1":
        return compare_f1(truth, reference, ours, metric)
    return compare(truth, reference, ours)


def told(metric: Metric, value: float, digits: int = 1) -> str:
    """Return a value of a metric for people: 91.2%, or 0.912; `digits` after the point of a percentage."""
    shares = ("accuracy", "subset_accuracy")
    return f"{value:.{digits}%}" if metric in shares else f"{value:.{digits + 2}f}"


def score_cells(found: AnyScore | None) -> list[str]:
    """Return a score as two cells of a table, whose heads are HEADS."""
    if found is None:
        return ["no labels", ""]
    if isinstance(found, NumberScore):
        return [f"{found.pearson:.3f}", f"{found.spearman:.3f}"]
    second = found.micro_f1 if isinstance(found, SubsetScore) else found.macro_f1
    return [f"{found.value:.1%}", f"{second:.3f}"]


def changed_rows(kind: Kind, before: Answers, after: Answers) -> int:
    """Return how many rows are answered otherwise."""
    if kind == "regression":
        return int((np.abs(before - after) > SAME * max(float(np.std(before)), 1e-8)).sum())
    return int((~right(before, after)).sum())


def score_of(task: Task, truth: Answers, answers: Answers) -> AnyScore:
    """Return how well answers are, in the words of the task's kind; arguments are those of `judge`."""
    if task.kind == "regression":
        return score_numbers(truth, answers)
    if task.kind == "multi":
        from models.train.metrics import score_labels  # here: scikit-learn would count as every engine's memory

        return SubsetScore(**score_labels(task, truth, answers).model_dump(include={*SubsetScore.model_fields}))
    return score(truth, answers, len(task.labels))
