"""parse_label(): convert a cell of a file to a label of the task's kind; label_names(): the distinct label names."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from models.errors import InputError
from models.task import Kind

Label = str | tuple[str, ...] | float  # single: a name; multi: sorted names, possibly none; regression: a number
SEPARATOR = "|"  # separates the labels of a multi-label cell in CSV and TSV, where a cell is one string
OUTPUT = "value"  # name of the single output of a regression
LARGEST = float(np.finfo(np.float32).max)  # targets are float32: a larger number would become infinity in training
NUMBER = re.compile(r"-?\d+(\.\d*)?")
INTEGER = re.compile(r"-?\d{1,999}")  # int() raises an error for strings of thousands of digits
SURROGATE = re.compile("[\ud800-\udfff]")  # an unpaired surrogate: possible in JSON, but not valid Unicode text


def parse_label(value: Any, kind: Kind, as_text: bool) -> Label:
    """Return the label in a cell.

    Args:
        value: content of the cell: a string, a number, a list, or None.
        kind: kind of the task.
        as_text: whether the cell is from CSV or TSV, where numbers are strings and a list is names joined by `|`.

    Raises:
        ValueError: the cell is not such a label; the message says what was expected.
    """
    if kind == "single":
        # whole numbers become floats in a column in which a label is missing somewhere
        return _name(int(value) if isinstance(value, float) and value.is_integer() else value)
    if kind == "multi":
        return _names(value, as_text)
    return _number(value, as_text)


def label_names(labels: Iterable[Label], kind: Kind) -> tuple[str, ...]:
    """Return the distinct labels, sorted (integers by value, before other names); for a regression (OUTPUT,)."""
    if kind == "regression":
        return (OUTPUT,)
    names: set[str] = set()
    for label in labels:
        names.update(label if isinstance(label, tuple) else (str(label),))
    return tuple(sorted(names, key=_sort_key))


def check_missing(source: str, labels: Iterable[Label]) -> None:
    """Refuse `nan` among labels that are numbers: it stands for a missing label. Among names it is a name.

    Raises:
        InputError: the labels are numbers and `nan`.
    """
    names = {str(label) for label in labels}
    missing = {name for name in names if name.lower() == "nan"}
    if missing and (numbers := names - missing) and all(map(NUMBER.fullmatch, numbers)):
        raise InputError(f"{source}: a label is {missing.pop()!r}, and the others are numbers: leave such rows out")


def _name(value: Any) -> str:
    """Return a label without spaces around it, which spreadsheets leave."""
    if isinstance(value, bool):
        raise ValueError(
            "wanted a label (a text or a whole number): write true and false as texts, or name them with "
            "--labels true=NAME,false=NAME"
        )
    if not isinstance(value, str | int) or not str(value).strip():
        raise ValueError("wanted a label (a text or a whole number)")
    if SURROGATE.search(str(value)):
        raise ValueError("wanted a label without unpaired surrogates, which are not valid Unicode")
    return str(value).strip()


def _names(value: Any, as_text: bool) -> tuple[str, ...]:
    if as_text and isinstance(value, str):
        if value.lstrip().startswith("[") and value.rstrip().endswith("]"):
            raise ValueError(f"a list as Python or JSON writes it: wanted names joined by {SEPARATOR!r}, or none")
        value = value.split(SEPARATOR) if value.strip() else []
    if not isinstance(value, list):
        raise ValueError(f"wanted {f'names joined by {SEPARATOR!r}' if as_text else 'a list of labels'}, or none")
    names = sorted(_name(name) for name in value)
    if len(set(names)) < len(names):
        raise ValueError("wanted each label of the text once, not 0 or 1 for each label")
    return tuple(names)


def _number(value: Any, as_text: bool) -> float:
    if as_text and isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise ValueError("wanted a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("wanted a number")
    if not abs(value) <= LARGEST:  # also true for NaN
        raise ValueError("wanted a finite number that float32 can hold")
    return float(value)


def is_whole_number(name: str) -> bool:
    """Whether a label is a whole number, as `int()` reads one."""
    return INTEGER.fullmatch(name) is not None


def _sort_key(name: str) -> tuple[bool, int, str]:
    is_integer = is_whole_number(name)
    return (not is_integer, int(name) if is_integer else 0, name)


def label_positions(names: Sequence[str]) -> dict[str, int]:
    """Return the number of each label as text, where a model has the names LABEL_0, LABEL_1, … only; else nothing.

    Those are what transformers writes for a model whose labels were whole numbers.
    """
    generic = [f"LABEL_{i}" for i in range(len(names))]
    return {str(i): i for i in range(len(names))} if list(names) == generic else {}
