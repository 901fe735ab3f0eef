"""read_scores(): read a file with the scores that some teacher, such as an LLM or an API, gave to rows.

A row of the file has the text (and the second text of a pair), or `row`, the number of a training row from 0 on, and
one column for each label. Other columns, which files often have, are ignored where they cannot be labels.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.data.columns import Columns
from models.data.labels import LARGEST
from models.errors import InputError
from models.messages import progress, say
from models.task import Task
from models.teachers.matching import folded_name, match_labels
from models.teachers.score_records import score_records
from models.teachers.teacher import Logits
from models.tokenizer import Row

NUMBER = "row"  # column of the number of a training row
SUM_TOLERANCE = 1e-3  # of the probabilities of a row
ROUNDED = 0.05  # the same, at most, of probabilities that are rounded to a few digits
MOST_DIGITS = 6
FEW = 10  # so many rows of probabilities are no logits
SMALLEST = 1e-7  # smaller probabilities count as this one: their logarithm is limited
SAME = 1e-6  # scores of one text that differ by more contradict each other


def read_scores(  # noqa: PLR0913 (what the file must fit)
    path: Path,
    task: Task,
    columns: Columns,
    are_logits: bool,
    numbered: Sequence[Row],
    learner: str = "the training rows",
) -> tuple[dict[Row, int], Logits]:
    """Return the number of each row, and logits (rows, labels) in the order of the task's labels.

    Probabilities become logits: their logarithm (single), or the logarithm of p / (1 - p) (multi).

    Args:
        path: a CSV, TSV, JSONL or Parquet file, or a folder that `prunella score --scores` wrote.
        task: task of the student; its labels are the columns.
        columns: names of the columns of the texts and, if the file has one, of the label, which is ignored; its map
            of labels renames the columns of the scores too.
        are_logits: the numbers are logits; for a regression it makes no difference.
        numbered: the rows that a column `row` counts, from 0 on.
        learner: what has the task, for messages.

    Raises:
        InputError: the file cannot be read, its columns are not the labels, a cell is not a number, the numbers are
            not probabilities, or two rows give one text different scores; the message names the file and the line.
    """
    records = score_records(path, columns)
    first = next(records, None)
    if first is None:
        raise InputError(f"{path} has no rows: wanted the scores of one text or more")
    renamed = columns.labels or {}
    keys = _keys(path, list(first[1]), task, columns)
    names = _label_columns(path, first[1], task, columns, task.kind == "single" and not are_logits)
    order = match_labels(str(path), [renamed.get(name, name) for name in names], task, learner)
    index: dict[Row, int] = {}
    scores: list[np.ndarray] = []
    for where, record in progress(itertools.chain([first], records), desc=f"read {path}", unit="row", delay=2):
        if missing := [name for name in (*keys, *names) if name not in record]:
            raise InputError(f"{where}: the row lacks {missing[0]!r}")
        row = _row(where, record, keys, numbered)
        values = np.array([_number(where, name, record[name]) for name in names])[order]
        if not are_logits:
            _check_probabilities(where, values, task)
        if row not in index:
            index[row] = len(scores)
            scores.append(values)
        elif np.abs(scores[index[row]] - values).max() > SAME:
            raise InputError(
                f"{where}: {row[0][:60]!r} has other scores in an earlier row: wanted one answer per text"
            )
    table = np.stack(scores)
    if are_logits:
        _check_logits(path, table, task)
    return index, _to_logits(table, task, are_logits)


def _keys(path: Path, present: list[str], task: Task, columns: Columns) -> list[str]:
    """Return the columns that identify a row."""
    texts = [columns.text, columns.text_pair] if task.pair else [columns.text]
    keys = texts if set(texts) <= set(present) else [NUMBER] if NUMBER in present else []
    if not keys:
        wanted = " and ".join(map(repr, texts))
        raise InputError(f"{path} has the columns {', '.join(present)}: wanted {wanted}, or {NUMBER!r}")
    return keys


def _label_columns(
    path: Path, first: Mapping[str, Any], task: Task, columns: Columns, sums_to_one: bool
) -> list[str]:
    """Return the columns of the labels, and those that might be some; the others are named in a message.

    Args:
        path: the file, for the message.
        first: its first record.
        task: its labels are looked for.
        columns: those of texts and labels, which are no scores.
        sums_to_one: whether the scores of the labels do: then no label can be missing beside them.
    """
    ignored = {columns.text, columns.text_pair, columns.label, NUMBER} - set(task.labels)
    renamed = columns.labels or {}
    names = [name for name in first if name not in ignored]
    wanted = {folded_name(name) for name in task.labels}
    known = [name for name in names if folded_name(renamed.get(name, name)) in wanted]
    if len(known) < len(task.labels):  # none may be left out: a message says how the labels differ
        return [name for name in names if not _is_index(name)]
    others = [
        name for name in names
        if name not in known and not (sums_to_one or _is_index(name) or not _is_number(first[name]))
    ]  # fmt: skip
    if left_out := [name for name in names if name not in (*known, *others) and not _is_index(name)]:
        say(f"{path}: these columns are no labels, and are ignored: {', '.join(left_out)}")
    return [name for name in names if name in (*known, *others)]


def _is_index(name: str) -> bool:
    """Whether a column is the number of a row that pandas writes, without a name."""
    return not name or name.startswith("Unnamed: ")


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False


def _row(where: str, record: Mapping[str, Any], keys: Sequence[str], numbered: Sequence[Row]) -> Row:
    if list(keys) != [NUMBER]:
        for key in keys:
            if not isinstance(record[key], str):
                raise InputError(f"{where}: {key!r} holds {type(record[key]).__name__}, wanted a text")
        return tuple(record[key] for key in keys)
    try:
        value = float(str(record[NUMBER]))  # 3.0 is 3: whole numbers become floats where some are missing
        number = int(value) if value.is_integer() else -1
    except ValueError:
        number = -1
    if not 0 <= number < len(numbered):
        raise InputError(
            f"{where}: {NUMBER!r} holds {str(record[NUMBER])[:40]!r}, wanted a whole number from 0 to "
            f"{len(numbered) - 1} (the rows of --train, then those of --texts)"
        )
    return numbered[number]


def _number(where: str, name: str, value: Any) -> float:
    try:
        number = math.nan if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= LARGEST:  # nor NaN; a larger one would be infinite in float32
        raise InputError(f"{where}: {name!r} holds {str(value)[:40]!r}, wanted a finite number that float32 can hold")
    return number


def _check_probabilities(where: str, values: np.ndarray, task: Task) -> None:
    if task.kind == "regression":
        return
    advice = "wanted probabilities (of percentages a hundredth), or --teacher-logits with logits"
    if values.min() < 0 or values.max() > 1:
        worst = values.min() if values.min() < 0 else values.max()
        raise InputError(f"{where}: {worst:g} is not between 0 and 1: {advice}")
    if task.kind == "single" and abs(values.sum() - 1) > max(SUM_TOLERANCE, min(ROUNDED, _rounding(values))):
        raise InputError(f"{where}: the scores sum to {values.sum():.4f}, not to 1: {advice}")


def _rounding(values: np.ndarray) -> float:
    """Return how far the sum can be from the true one if the values are rounded to as many digits as they have."""
    for digits in range(1, MOST_DIGITS):
        if np.abs(values * 10**digits - np.rint(values * 10**digits)).max() < 1e-6:
            return len(values) / 2 / 10**digits + 1e-6
    return 0.0


def _check_logits(path: Path, scores: np.ndarray, task: Task) -> None:
    """Refuse probabilities and percentages under the flag of logits: a student would learn nearly equal answers."""
    if task.kind == "regression" or scores.min() < 0 or len(scores) < FEW:
        return
    sums = scores.sum(axis=1)
    if scores.max() <= 1 and (task.kind == "multi" or np.abs(sums - 1).max() <= ROUNDED):
        raise InputError(f"{path} holds probabilities, and --teacher-logits says logits: leave that out")
    if task.kind == "single" and np.abs(sums - 100).max() <= 100 * ROUNDED:
        raise InputError(
            f"{path} holds percentages, and --teacher-logits says logits: leave that out, and divide them by 100"
        )


def _to_logits(scores: np.ndarray, task: Task, are_logits: bool) -> Logits:
    if task.kind == "single" and not are_logits:
        scores = np.log(scores.clip(SMALLEST))
    elif task.kind == "multi" and not are_logits:
        limited = scores.clip(SMALLEST, 1 - SMALLEST)
        scores = np.log(limited / (1 - limited))
    return np.asarray(scores, dtype=np.float32)
