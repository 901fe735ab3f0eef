"""match_labels() and check_agreement(): whether a teacher answers the task of the training rows, and how well."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.data.texts import Texts
from models.errors import InputError
from models.finetuning.informedness import chance_of, informedness
from models.finetuning.metrics import Scores
from models.finetuning.pearson import pearson
from models.messages import WARNING, say
from models.task import Task

NAMED = 5  # labels named in a message
CORRELATED = 0.1  # scores of a teacher of several labels or of a number correlate with the labels by more
CHANCE = 0.05  # of answers in random order, a larger share as good as the teacher's says that these may be guessed
DRAWS = 199
# a teacher that is right no more often than the most frequent label must be more informed than this, and answers that
# ignore the text as informed in at most this share of draws
INFORMED, BY_CHANCE = 0.1, 0.01


def match_labels(
    teacher: str, labels: Sequence[str], task: Task, learner: str = "the training rows", quiet: bool = False
) -> list[int]:
    """Return the position of each label of the task among the teacher's.

    They are matched by name. If the names differ only in upper and lower case and in spaces around them, or if one
    side has the names LABEL_0, LABEL_1, …, which say nothing, a message says which labels are taken for which. The
    single output of a regression has no name that counts.

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
    folded = [folded_name(name) for name in labels]
    if len(set(folded)) == len(folded) and set(folded) == {folded_name(name) for name in task.labels}:
        if not quiet:
            say(f"the teacher {teacher} writes its labels {_names(labels)}, {learner} {_names(task.labels)}")
        return [folded.index(folded_name(name)) for name in task.labels]
    numbered = [f"LABEL_{i}" for i in range(len(labels))]  # a file may have these columns in another order
    for nameless, others, said in (
        (labels, task.labels, f"the teacher {teacher} names its labels"),
        (task.labels, labels, f"beside the teacher {teacher}, the labels of {learner} are"),
    ):  # fmt: skip
        if set(nameless) == set(numbered):
            if not quiet:
                say(
                    f"{WARNING}{said} LABEL_0 to LABEL_{len(labels) - 1}: they are taken for "
                    f"{_names(others, len(others))}, in this order"
                )
            if nameless is labels:
                return [list(labels).index(name) for name in numbered]
            return [numbered.index(name) for name in task.labels]
    unknown = [name for name in labels if name not in task.labels]
    missing = [name for name in task.labels if name not in labels]
    raise InputError(
        f"the teacher {teacher} has labels that are not those of {learner} ({_names(unknown)}), and lacks "
        f"{_names(missing)}: labels are matched by name"
    )


def folded_name(name: str) -> str:
    """Return the name of a label without upper case, and without spaces around it."""
    return name.strip().casefold()


def check_agreement(teacher: str, task: Task, labelled: Texts, scores: Scores, weak: bool) -> None:
    """Compare a teacher's answers with labels, and say how often they agree.

    They must be better than the most frequent label, and better than the same answers in random order. Of one label
    for each row they may be right less often than the most frequent label if they tell the labels apart all the same:
    where that label is frequent, an honest teacher of the rare ones often is.

    Args:
        teacher: its name, for messages.
        task: the task of the labels.
        labelled: rows with labels.
        scores: the teacher's, (rows, labels).
        weak: print a warning instead of an error.

    Raises:
        InputError: the teacher agrees with the labels no more often than their most frequent one (`multi` and
            regression: the correlation of its scores with them is CORRELATED or less), or only as often as its
            answers in random order do in more than CHANCE of draws, or its numbers are further from the labels
            than their mean is; and `weak` is false.
    """
    truth, rows = labelled.targets(task), f"{len(labelled)} rows of {labelled.source}"
    answers = np.asarray(task.decide(scores)) if task.kind == "single" else None
    likeness, least, sentence = (
        _score_agreement(truth, scores) if answers is None else _label_agreement(truth, answers)
    )
    agreement, order = likeness(np.arange(len(truth))), np.random.default_rng(0)
    message = sentence.format(teacher=teacher, agreement=agreement, rows=rows, least=least)
    if answers is not None and _tells_apart(truth, answers):
        say(message)
        return
    if agreement > least or agreement == 1:
        chance = (1 + sum(likeness(order.permutation(len(truth))) >= agreement for _ in range(DRAWS))) / (1 + DRAWS)
        problem = _other_scale(truth, scores) if task.kind == "regression" else ""
        if chance > CHANCE and agreement < 1:
            problem = f"; its answers in random order are as good in {chance:.0%} of draws"
        if not problem:
            say(message)
            return
        message += problem
    if not weak:
        raise InputError(f"{message}: it may be of another language or task; --weak-teacher continues with it")
    say(f"{WARNING}{message}")


Likeness = Callable[[NDArray[np.int64]], float]  # of answers, taken in this order of rows, to the labels


def _label_agreement(truth: NDArray[Any], answers: NDArray[Any]) -> tuple[Likeness, float, str]:
    """Return the share of equal labels, that of the most frequent one, and a sentence about them."""
    constant = float(np.bincount(truth).max() / len(truth))
    return lambda order: float((answers[order] == truth).mean()), constant, (
        "the teacher {teacher} agrees with {agreement:.1%} of the labels of {rows}, and the most frequent label "
        "alone with {least:.1%}"
    )  # fmt: skip


def _tells_apart(truth: NDArray[Any], answers: NDArray[Any]) -> bool:
    return informedness(truth, answers) > INFORMED and chance_of(truth, answers) <= BY_CHANCE


def _other_scale(truth: NDArray[Any], scores: Scores) -> str:
    """Return how a teacher's numbers differ from the labels if these are nearer to their own mean than to them."""
    given = scores.ravel()
    if np.square(given - truth).mean() <= truth.var():
        return ""
    return (
        f", and another scale: their mean is {given.mean():.3g} (standard deviation {given.std():.3g}), that of the "
        f"labels {truth.mean():.3g} ({truth.std():.3g})"
    )


def _score_agreement(truth: NDArray[Any], scores: Scores) -> tuple[Likeness, float, str]:
    """Return the correlation of scores and labels, the least one that counts, and a sentence about them."""
    truth = truth.reshape(scores.shape)  # several labels: their frequencies differ, so each is centred by itself
    wanted, given = (truth - truth.mean(axis=0)).ravel(), scores - scores.mean(axis=0)
    return lambda order: pearson(given[order].ravel(), wanted), CORRELATED, (
        "the scores of the teacher {teacher} have a correlation of {agreement:.2f} with the labels of {rows}"
    )  # fmt: skip


def _names(labels: Sequence[str], most: int = NAMED) -> str:
    return ", ".join(labels[:most]) + (", …" if len(labels) > most else "")
