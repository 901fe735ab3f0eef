"""What is said of a smaller model's answers, and what is refused: a loss outside, answers that ignore the text."""

from bench.accuracy import Answers, Difference
from bench.judging import NAMES
from bench.recall import LabelRecall, collapsed_labels, constant_answer, informedness
from models.console import say
from models.correlation import varies
from models.errors import TargetError
from models.task import Task

INFORMED = 0.1  # a reference whose answers tell less about the labels has nothing that could be lost
LEAST_LEFT = 0.1  # of what the reference's answers tell


def check_reported_loss(lost: Difference, max_loss: float) -> None:
    """Say how sure it is that the reported loss is inside.

    Raises:
        TargetError: the whole interval is outside.
    """
    low, high = lost.loss_interval
    found = (
        f"{lost.loss_points:.2f} points of {NAMES[lost.metric]} are lost on the {lost.rows} rows that are reported "
        f"(95 % interval {low:.2f} to {high:.2f}), {max_loss:g} are allowed"
    )
    match lost.verdict(max_loss):
        case "outside":
            raise TargetError(f"{found}: not shipped; allow a larger --max-loss, or ask for less")
        case "doubtful":
            say(f"WARNING: {found}: the rows that chose promised less")
        case "likely":
            needed = lost.rows_needed(max_loss)
            wanted = "" if needed is None or needed <= lost.rows else f"; to be sure takes {needed} rows or more"
            say(f"{found}: likely inside, and not sure{wanted}")
        case "sure":
            say(f"{found}: sure to be inside")


def name_collapsed(task: Task, truth: Answers, reference: Answers, ours: Answers) -> tuple[LabelRecall, ...]:
    """Return the labels of which less than half of the recall is left, and name them on stderr."""
    if task.kind == "regression":
        return ()
    collapsed = collapsed_labels(task.labels, truth, reference, ours)
    for one in collapsed:
        say(f"WARNING: {one.sentence()}")
    return collapsed


def refuse_uninformative(task: Task, truth: Answers, reference: Answers, ours: Answers) -> None:
    """Refuse a model whose answers hardly depend on the text, whatever loss is allowed.

    With 95 rows of 100 in one label, answering with that label costs 5 points of accuracy and is no classifier.

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
