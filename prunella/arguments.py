"""check_arguments(): the arguments of a Python function are checked like the options of the command of its name.

typer checks the values of a command line by the types of the parameters (a Literal, the limits of an Option). In
Python nothing does, and a wrong value would be an error far from its cause, or no error at all.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from models.errors import InputError

ROWS = frozenset({"train", "validation", "test", "texts", "calibration", "data"})  # arguments that name rows
A_FILE = "the name of a file of rows, such as 'train.csv'"


def check_arguments(given: Mapping[str, Any], annotations: Mapping[str, Any]) -> None:
    """Check arguments by the annotations of a command.

    Args:
        given: the arguments by name; those without an annotation are not checked.
        annotations: the types of the parameters of the command, with the limits that their options have.

    Raises:
        InputError: an argument is of another type, not one of the choices, or outside of the limits; the message
            names it, and says what was wanted.
    """
    for name, value in given.items():
        if name in annotations:
            _check(name, value, annotations[name])


def _check(name: str, value: Any, annotation: Any) -> None:
    kind, *options = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if value is None and type(None) in kinds:
        return
    choices = [str(choice) for one in kinds if get_origin(one) is Literal for choice in get_args(one)]
    if choices and str(value) not in choices:
        raise InputError(f"{name} is {value!r}: choose from {', '.join(choices)}")
    if list[str] in kinds:
        _check_folders(name, value)
    elif name not in ("labels", "family") and (str in kinds or Path in kinds):  # these two have several forms
        _check_text(name, value, Path in kinds)
    elif int in kinds or float in kinds:
        _check_number(name, value, options)


def _check_text(name: str, value: Any, is_path: bool) -> None:
    if isinstance(value, str | os.PathLike):
        return
    wanted = A_FILE if name in ROWS else "a path" if is_path else "a text"
    remedy = ""
    if name in ROWS and hasattr(value, "to_csv"):
        remedy = f"; write it to one first: {name}.to_csv('{name}.csv', index=False)"
    raise InputError(f"{name} is {_kind_of(value)}: wanted {wanted}{remedy}")


def _check_folders(name: str, value: Any) -> None:
    if isinstance(value, str | os.PathLike):
        return
    if not isinstance(value, Sequence) or not all(isinstance(one, str | os.PathLike) for one in value):
        raise InputError(f"{name} is {_kind_of(value)}: wanted a folder, or a list of folders")


def _check_number(name: str, value: Any, options: Sequence[Any]) -> None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{name} is {value!r}: wanted a number") from None
    for option in options:
        least, most = getattr(option, "min", None), getattr(option, "max", None)
        if (least is not None and not number >= least) or (most is not None and not number <= most):
            limits = [f"{least} or more" if least is not None else "", f"{most} at most" if most is not None else ""]
            raise InputError(f"{name} is {value!r}: wanted {' and '.join(filter(None, limits))}")


def _kind_of(value: Any) -> str:
    """Return what a value is, for people: None, or its type with an article."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
