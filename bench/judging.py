"""judge() and judge_loss(): what answers are worth, by kind of task: the share of right ones, or a correlation."""

import numpy as np

from bench.accuracy import Answers, Difference, Metric, Score, compare, right, score, true_labels
from bench.correlation import NumberScore, compare_numbers, score_numbers
from models.correlation import pearson
from models.data.texts import Texts
from models.task import Kind, Task

NAMES: dict[Metric, str] = {"accuracy": "accuracy", "pearson": "Pearson's correlation"}
SAME = 0.01  # of the spread of its answers: a number that moves by less counts as the same answer


def metric_of(kind: Kind) -> Metric:
    """Return by what a model of a kind is judged."""
    return "pearson" if kind == "regression" else "accuracy"


def judge(kind: Kind, truth: Answers, answers: Answers) -> float:
    """Return the share of rows that are answered right, or the correlation of numbers with the true ones.

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


def score_heads(metric: Metric) -> list[str]:
    """Return the heads of the columns of `score_cells`."""
    return ["Pearson", "Spearman"] if metric == "pearson" else ["accuracy", "macro F1"]


def score_cells(found: Score | NumberScore | None) -> list[str]:
    """Return a score as two cells of a table."""
    if found is None:
        return ["no labels", ""]
    if isinstance(found, NumberScore):
        return [f"{found.pearson:.3f}", f"{found.spearman:.3f}"]
    return [f"{found.accuracy:.1%}", f"{found.macro_f1:.3f}"]


def changed_rows(kind: Kind, before: Answers, after: Answers) -> int:
    """Return how many rows are answered otherwise."""
    if kind == "regression":
        return int((np.abs(before - after) > SAME * max(float(np.std(before)), 1e-8)).sum())
    return int((~right(before, after)).sum())


def truth_of(data: Texts, task: Task) -> Answers:
    """Return what a model of `task` should answer, (rows,): label indices, or numbers.

    Raises:
        InputError: there are no labels, the task does not know one, or a row has several.
    """
    return data.targets(task) if task.kind == "regression" else true_labels(data, task)


def score_of(task: Task, truth: Answers, answers: Answers) -> Score | NumberScore:
    """Return how well answers (rows,) are, in the words of the task's kind."""
    if task.kind == "regression":
        return score_numbers(truth, answers)
    return score(truth, answers, len(task.labels))
