"""Checks of the rows of a cascade: which rows serve two purposes, and what the rows cannot show."""

from compress.cascade.learn_gate import Floats
from compress.cascade.loss_bound import fewest_rows
from compress.cascade.threshold import CONFIDENCE
from models.data.overlap import without
from models.data.texts import Texts
from models.errors import InputError
from models.messages import WARNING, say
from models.task import Task
from models.tokenizer import Row

NAMED = 5  # labels named in a message
REPEATED = 0.1  # share of the threshold rows that may be repetitions without a warning


def rows_apart(rows: Texts, seen: list[Row], what: str, purpose: str, option: str) -> Texts:
    """Return the rows that are not among `seen`, with a message if some are.

    Raises:
        InputError: none is left.
    """
    left = without(rows, seen)
    if not len(left):
        raise InputError(f"all rows of {rows.source} are also {what}: give others with {option}")
    if dropped := len(rows) - len(left):
        say(f"{WARNING}{dropped} rows of {rows.source} are also {what}: {purpose} without them")
    return left


def unseen_labels(task: Task, targets: Floats) -> list[str]:
    """Return the labels that are the most probable one of no training text: the gate hardly answers with them."""
    known = set(targets.argmax(axis=1).tolist())
    return [name for i, name in enumerate(task.labels) if i not in known]


def name_unseen(unseen: list[str]) -> None:
    """Print a warning for labels that no training text has."""
    if unseen:
        say(
            f"{WARNING}no training text has the label {_listed(unseen)}: the gate does not know it. The bound counts "
            "texts of this label that the gate answers wrongly only as far as the validation rows have some"
        )


def say_of_threshold(rows: Texts, task: Task, max_loss: float) -> None:
    """Print warnings, before any work, about rows from which a bound cannot be expected.

    They are too few, lack a label, or are repeated, although the bound takes them as drawn one by one.
    """
    fewest = fewest_rows(max_loss / 100, CONFIDENCE)
    if len(rows) < fewest:
        say(
            f"{WARNING}{len(rows)} rows of {rows.source} decide the threshold, and a loss of at most {max_loss:g} "
            f"points takes {fewest} rows, even if none is lost (won rows lower this number)"
        )
    missing = sorted(set(task.labels) - {task.labels[i] for i in rows.targets(task).astype(int)})
    if missing:
        say(f"{WARNING}no row of {rows.source} has the label {_listed(missing)}: the bound says nothing about it")
    repeated = len(rows) - len(set(rows.rows))
    if repeated > REPEATED * len(rows):
        say(
            f"{WARNING}{repeated} of {len(rows)} rows of {rows.source} are repetitions: the bound holds only if "
            "texts are repeated as often where they are served"
        )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
