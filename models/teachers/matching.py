"""match_labels() and check_agreement(): whether a teacher answers the task of the training rows, and how well."""

from collections.abc import Sequence

import numpy as np

from models.data.texts import Texts
from models.errors import InputError
from models.finetuning.metrics import Scores
from models.finetuning.pearson import pearson
from models.messages import WARNING, say
from models.task import Task

NAMED = 5  # labels named in a message
CORRELATED = 0.1  # scores of a teacher of several labels or of a number correlate with the labels by more


def match_labels(
    teacher: str, labels: Sequence[str], task: Task, learner: str = "the training rows", quiet: bool = False
) -> list[int]:
    """Return the position of each label of the task among the teacher's.

    They are matched by name. If the names differ only in upper and lower case, or if one side has the names LABEL_0,
    LABEL_1, …, which say nothing, a message says which labels are taken for which. The single output of a regression
    has no name that counts.

    Args:
        teacher: its name, for messages.
        labels: the teacher's, in its own order.
        task: what is learned.
        learner: what has this task, for messages.
        quiet: do not print the message.

    Raises:
        InputError: the teacher has another number of labels, or other labels.
    """
    if len(labels) != len(task.labels):
        raise InputError(
            f"the teacher {teacher} has {len(labels)} labels ({_names(labels)}), {learner} {len(task.labels)} "
            f"({_names(task.labels)}): wanted the same labels"
        )
    if task.kind == "regression":
        return [0]
    if set(labels) == set(task.labels):
        return [list(labels).index(name) for name in task.labels]
    folded = [name.casefold() for name in labels]
    if len(set(folded)) == len(folded) and set(folded) == {name.casefold() for name in task.labels}:
        if not quiet:
            say(f"the teacher {teacher} writes its labels {_names(labels)}, {learner} {_names(task.labels)}")
        return [folded.index(name.casefold()) for name in task.labels]
    for nameless, others, said in (
        (labels, task.labels, f"the teacher {teacher} names its labels"),
        (task.labels, labels, f"beside the teacher {teacher}, the labels of {learner} are"),
    ):  # fmt: skip
        if list(nameless) == [f"LABEL_{i}" for i in range(len(labels))]:
            if not quiet:
                say(
                    f"{WARNING}{said} LABEL_0 to LABEL_{len(labels) - 1}: they are taken for "
                    f"{_names(others, len(others))}, in this order"
                )
            return list(range(len(labels)))
    unknown = [name for name in labels if name not in task.labels]
    missing = [name for name in task.labels if name not in labels]
    raise InputError(
        f"the teacher {teacher} has labels that are not those of {learner} ({_names(unknown)}), and lacks "
        f"{_names(missing)}: labels are matched by name"
    )


def check_agreement(teacher: str, task: Task, labelled: Texts, scores: Scores, weak: bool) -> None:
    """Compare a teacher's answers with labels: they must be better than the most frequent label.

    Args:
        teacher: its name, for messages.
        task: the task of the labels.
        labelled: rows with labels.
        scores: the teacher's, (rows, labels).
        weak: print a warning instead of an error.

    Raises:
        InputError: the teacher agrees with the labels no more often than their most frequent one (`multi` and
            regression: the correlation of its scores with them is CORRELATED or less), and `weak` is false.
    """
    truth, rows = labelled.targets(task), f"{len(labelled)} rows of {labelled.source}"
    if task.kind == "single":
        agreement = float((np.asarray(task.decide(scores)) == truth).mean())
        constant = float(np.bincount(truth).max() / len(truth))
        if agreement > constant or agreement == 1:
            return
        message = (
            f"the teacher {teacher} agrees with {agreement:.1%} of the labels of {rows}, and the most frequent "
            f"label alone with {constant:.1%}"
        )
    else:
        truth = truth.reshape(scores.shape)  # several labels: their frequencies differ, so each is centred by itself
        correlation = pearson((scores - scores.mean(axis=0)).ravel(), (truth - truth.mean(axis=0)).ravel())
        if correlation > CORRELATED:
            return
        message = (
            f"the scores of the teacher {teacher} have a correlation of {correlation:.2f} with the labels of {rows}"
        )
    if not weak:
        raise InputError(f"{message}: it may be of another language or task; --weak-teacher continues with it")
    say(f"{WARNING}{message}")


def _names(labels: Sequence[str], most: int = NAMED) -> str:
    return ", ".join(labels[:most]) + (", …" if len(labels) > most else "")
