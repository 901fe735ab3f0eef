"""judge() and judge_loss(): what answers are worth, by kind of task: the share of right rows, or a correlation."""

import numpy as np

from bench.accuracy import Answers, Difference, Metric, Score, SubsetScore, compare, right, score
from bench.correlation import NumberScore, compare_numbers, score_numbers
from models.correlation import pearson
from models.task import Kind, Task

METRICS: dict[Kind, Metric] = {"single": "accuracy", "multi": "subset_accuracy", "regression": "pearson"}
NAMES: dict[Metric, str] = {
    "accuracy": "accuracy", "subset_accuracy": "subset accuracy", "pearson": "Pearson's correlation",
}  # fmt: skip
HEADS: dict[Metric, list[str]] = {
    "accuracy": ["accuracy", "macro F1"], "subset_accuracy": ["subset accuracy", "micro F1"],
    "pearson": ["Pearson", "Spearman"],
}  # fmt: skip
AnyScore = Score | SubsetScore | NumberScore
SAME = 0.01  # of the spread of its answers: a number that moves by less counts as the same answer


def judge(kind: Kind, truth: Answers, answers: Answers) -> float:
    """Return the share of rows that are answered right, each with all its labels, or the correlation of numbers.

    Args:
        kind: of the task.
        truth: `Texts.targets` of the rows.
        answers: `Task.decide` of the same rows.
    """
    return pearson(truth, answers) if kind == "regression" else float(right(truth, answers).mean())


def judge_loss(kind: Kind, truth: Answers, reference: Answers, ours: Answers) -> Difference:
    """Return what is lost between two models' answers to the same rows; arguments are those of `judge`."""
    return (compare_numbers if kind == "regression" else compare)(truth, reference, ours)


def told(metric: Metric, value: float, digits: int = 1) -> str:
    """Return a value of a metric for people: 91.2%, or 0.912; `digits` after the point of a percentage."""
    return f"{value:.{digits + 2}f}" if metric == "pearson" else f"{value:.{digits}%}"


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
