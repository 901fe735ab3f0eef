"""parse_label(): a cell of a file → the label of a row, by kind of task; label_names(): the labels of many rows."""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from models.task import Kind

Label = str | tuple[str, ...] | float  # single: a name; multi: names, sorted, possibly none; regression: a number
SEPARATOR = "|"  # between the names of a multi-label cell in CSV and TSV, where a cell is one text
OUTPUT = "value"  # what a regression's one output is called: its rows hold numbers and no name
LARGEST = float(np.finfo(np.float32).max)  # targets are float32: what does not fit would be trained on as infinity
WHOLE = re.compile(r"-?\d{1,999}")  # int() refuses texts of thousands of digits
SURROGATE = re.compile("[\ud800-\udfff]")  # half of a pair, which JSON can write and no text file can hold


def parse_label(value: Any, kind: Kind, written: bool) -> Label:
    """Return the label that a cell holds.

    Args:
        value: what the file holds: a text, a number, a list, or None.
        kind: of the task.
        written: whether the cell comes from CSV or TSV, where a list is names joined by `|` and a number is written.

    Raises:
        ValueError: the cell holds something else; the message says what was wanted.
    """
    if kind == "single":
        return _name(value)
    if kind == "multi":
        return _names(value, written)
    return _number(value, written)


def label_names(labels: Iterable[Label], kind: Kind) -> tuple[str, ...]:
    """Return the names that occur, sorted (numbers by their value); a regression's one output is `value`."""
    if kind == "regression":
        return (OUTPUT,)
    found: set[str] = set()
    for label in labels:
        found.update(label if isinstance(label, tuple) else (str(label),))
    return tuple(sorted(found, key=_place))


def _name(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise ValueError("wanted a label (a text or a whole number)")
    if SURROGATE.search(str(value)):
        raise ValueError("wanted a label without half of a surrogate pair, which is no text")
    return str(value)


def _names(value: Any, written: bool) -> tuple[str, ...]:
    if written and isinstance(value, str):
        value = value.split(SEPARATOR) if value.strip() else []
    if not isinstance(value, list):
        raise ValueError(f"wanted {f'names joined by {SEPARATOR!r}' if written else 'a list of labels'}, or none")
    names = sorted(_name(name) for name in value)
    if len(set(names)) < len(names):
        raise ValueError("wanted each label once")
    return tuple(names)


def _number(value: Any, written: bool) -> float:
    if written and isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise ValueError("wanted a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("wanted a number")
    if not abs(value) <= LARGEST:  # no NaN is
        raise ValueError("wanted a finite number that float32 can hold")
    return float(value)


def _place(name: str) -> tuple[bool, int, str]:
    whole = WHOLE.fullmatch(name) is not None
    return (not whole, int(name) if whole else 0, name)
