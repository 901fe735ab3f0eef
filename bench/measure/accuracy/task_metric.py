"""Metrics by kind of task: metric_value() of one model's answers, paired_loss() between two models."""

import numpy as np

from bench.measure.accuracy.correlation import NumberScore, compare_numbers, score_numbers
from bench.measure.accuracy.difference import Answers, Difference, Metric, Score, SubsetScore, compare, right, score
from bench.measure.accuracy.f1 import compare_f1, f1_of
from models.errors import InputError
from models.finetuning.pearson import pearson
from models.task import Kind, Task

METRICS: dict[Kind, Metric] = {"single": "accuracy", "multi": "subset_accuracy", "regression": "pearson"}
CHOICES: dict[Kind, tuple[Metric, ...]] = {  # metrics that may limit a compression; the first is the default
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
SAME = 0.01  # of the standard deviation of the answers: a number that changes by less counts as the same answer


def choose_metric(kind: Kind, metric: str | None) -> Metric:
    """Return the metric of that name, or the default metric of the kind of task when it is None.

    Raises:
        InputError: The metric does not exist for this kind of task.
    """
    choices = CHOICES[kind]
    if metric is None:
        return choices[0]
    for choice in choices:
        if choice == metric:
            return choice
    raise InputError(f"--metric is {metric!r}: choose from {', '.join(choices)} for a {kind} task")


def metric_value(kind: Kind, truth: Answers, answers: Answers, metric: Metric | None = None) -> float:
    """Return the value of a metric.

    Args:
        kind: Kind of task.
        truth: `Texts.targets` of the rows.
        answers: `Task.decide` of the same rows.
        metric: One of CHOICES. The default is the share of rows with all labels right, or Pearson's correlation.
    """
    if kind == "regression":
        return pearson(truth, answers)
    if metric == "macro_f1" or metric == "micro_f1":
        return f1_of(truth, answers, metric)
    return float(right(truth, answers).mean())


def paired_loss(
    kind: Kind, truth: Answers, reference: Answers, ours: Answers, metric: Metric | None = None
) -> Difference:  # fmt: skip
    """Return the loss between two models' answers to the same rows; arguments are those of `metric_value`."""
    if kind == "regression":
        return compare_numbers(truth, reference, ours)
    if metric == "macro_f1" or metric == "micro_f1":
        return compare_f1(truth, reference, ours, metric)
    return compare(truth, reference, ours)


def format_metric(metric: Metric, value: float, digits: int = 1) -> str:
    """Format a metric: 91.2% or 0.912; `digits` is the number of decimal places of a percentage."""
    percentages = ("accuracy", "subset_accuracy")
    return f"{value:.{digits}%}" if metric in percentages else f"{value:.{digits + 2}f}"


def score_cells(scores: AnyScore | None) -> list[str]:
    """Return the scores as two table cells, under the column titles HEADS."""
    if scores is None:
        return ["no labels", ""]
    if isinstance(scores, NumberScore):
        return [f"{scores.pearson:.3f}", f"{scores.spearman:.3f}"]
    f1 = scores.micro_f1 if isinstance(scores, SubsetScore) else scores.macro_f1
    return [f"{scores.value:.1%}", f"{f1:.3f}"]


def changed_rows(kind: Kind, before: Answers, after: Answers) -> int:
    """Return the number of rows whose answer changed."""
    if kind == "regression":
        return int((np.abs(before - after) > SAME * max(float(np.std(before)), 1e-8)).sum())
    return int((~right(before, after)).sum())


def score_of(task: Task, truth: Answers, answers: Answers) -> AnyScore:
    """Return the scores for the task's kind; `truth` and `answers` are those of `metric_value`."""
    if task.kind == "regression":
        return score_numbers(truth, answers)
    if task.kind == "multi":
        # imported here, so that only code that computes scores loads scikit-learn
        from models.finetuning.metrics import score_labels

        return SubsetScore(**score_labels(task, truth, answers).model_dump(include={*SubsetScore.model_fields}))
    return score(truth, answers, len(task.labels))
