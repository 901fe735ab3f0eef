"""Checks of a smaller model's answers: too large a loss, collapsed labels, and answers that ignore the text."""

from bench.measure.accuracy.difference import Answers, Difference
from bench.measure.accuracy.label_recall import LabelRecall, collapsed_labels, constant_answer
from bench.measure.accuracy.task_metric import NAMES
from models.errors import TargetError
from models.finetuning.informedness import informedness
from models.finetuning.pearson import varies
from models.messages import say
from models.task import Task

INFORMED = 0.1  # least informedness of the reference for which a loss of informedness is checked
LEAST_LEFT = 0.1  # share of the reference's informedness that must be left


def check_reported_loss(lost: Difference, max_loss: float) -> None:
    """Print the verdict on the reported loss.

    Raises:
        TargetError: the whole interval exceeds `max_loss`.
    """
    low, high = lost.loss_interval
    result = (
        f"{lost.loss_points:.2f} points of {NAMES[lost.metric]} are lost on the {lost.rows} rows that are reported "
        f"(95 % interval {low:.2f} to {high:.2f}), {max_loss:g} are allowed"
    )
    match lost.verdict(max_loss):
        case "outside":
            raise TargetError(f"{result}: not shipped; allow a larger --max-loss, or ask for less")
        case "doubtful":
            say(f"WARNING: {result}: the loss on the rows used for selection was smaller")
        case "likely":
            needed = lost.rows_needed(max_loss)
            hint = "" if needed is None or needed <= lost.rows else f"; {needed} rows or more are needed to be sure"
            say(f"{result}: the limit is likely kept, but this is not sure{hint}")
        case "sure":
            say(f"{result}: the limit is surely kept")


def name_collapsed(task: Task, truth: Answers, reference: Answers, ours: Answers) -> tuple[LabelRecall, ...]:
    """Return the labels that lost more than half of their recall, and name them on stderr."""
    if task.kind == "regression":
        return ()
    collapsed = collapsed_labels(task.labels, truth, reference, ours)
    for one in collapsed:
        say(f"WARNING: {one.sentence()}")
    return collapsed


def refuse_uninformative(task: Task, truth: Answers, reference: Answers, ours: Answers) -> None:
    """Reject a model whose answers hardly depend on the text, whatever loss is allowed.

    If 95 of 100 rows have one label, a model that always answers with it loses only 5 points of accuracy.

    Raises:
        TargetError: all rows get one answer where the reference gives several, or less than LEAST_LEFT of the
            reference's `informedness` is left.
    """
    if task.kind == "regression":
        if varies(reference) and not varies(ours):
            raise TargetError(f"the smaller model answers all {len(truth)} rows with one number: not shipped")
        return
    constant = constant_answer(task.labels, ours)
    if constant and not constant_answer(task.labels, reference):
        answers = f"answers all {len(truth)} rows with {constant}"
    elif (before := informedness(truth, reference)) >= INFORMED and informedness(truth, ours) < LEAST_LEFT * before:
        answers = f"hardly tells the labels of {len(truth)} rows apart"
    else:
        return
    collapsed = collapsed_labels(task.labels, truth, reference, ours)
    details = "".join(f"; {one.sentence()}" for one in collapsed[:3])
    raise TargetError(
        f"the smaller model {answers}{details}. It is not shipped, whatever --max-loss says: ask for less speed, "
        "give more texts (--texts) or more labelled rows of each label, or guard by another --metric"
    )
