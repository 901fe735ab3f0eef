"""LabelMap: the names that a model has for the labels of a file, as `--labels 0=negative,1=positive` gives them.

Every label of the file must be in the map: nothing is guessed.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from models.data.labels import Label, is_whole_number
from models.errors import InputError

EXAMPLE = '0=negative,1=positive, or a JSON object such as {"0": "negative"} for names with a comma or an equals sign'
NAMED = 10  # maximum number of pairs in a suggested command
RESERVED = ",="  # separate the pairs, and the two names of a pair


class LabelMap:
    """Label of the file → label of the model."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = dict(names)

    @classmethod
    def parse(cls, value: str | Mapping[str, str] | None) -> "LabelMap | None":
        """Return the map in the value of `--labels`: pairs `label=name` joined by commas, or a JSON object.

        Raises:
            InputError: it is neither, a name is empty, or a label has two names.
        """
        if value is None:
            return None
        if isinstance(value, Mapping):
            pairs = [(str(label), name) for label, name in value.items()]
        elif not isinstance(value, str):
            raise InputError(f"--labels is {value!r}: wanted a name for each label, such as {EXAMPLE}")
        elif value.lstrip().startswith("{"):
            pairs = _json_pairs(value)
        else:
            pairs = [_pair(value, part) for part in value.split(",")]
        if not pairs or not all(isinstance(name, str) and label.strip() and name.strip() for label, name in pairs):
            raise InputError(f"--labels is {value!r}: wanted a name for each label, such as {EXAMPLE}")
        if twice := _repeated(label for label, _ in pairs):
            raise InputError(f"--labels names {twice!r} twice: wanted one name for each label of the file")
        return cls(dict(pairs))

    def check(self, labels: Sequence[str]) -> None:
        """Check that all names are labels of the model.

        Several labels of the file may have one name, such as ratings that become `positive`; but not while another
        label of the model has none, because that is more likely a slip.

        Raises:
            InputError: a name is not one of `labels`, or is used twice while another is not used.
        """
        known, used = ", ".join(labels), set(self.names.values())
        if unknown := sorted(used - set(labels)):
            raise InputError(f"--labels gives the name {unknown[0]!r}, which is not the model's ({known})")
        unused = [label for label in labels if label not in used]
        if (twice := _repeated(self.names.values())) and unused:
            raise InputError(
                f"--labels gives the name {twice!r} to two labels, and none has the name {unused[0]!r}: "
                "wanted another name for one of them"
            )

    def cell(self, value: Any) -> Any:
        """Return `true` or `false` in JSONL or Parquet as the map spells it, in lower case if it has neither."""
        if not isinstance(value, bool):
            return value
        small = str(value).lower()
        return str(value) if small not in self.names and str(value) in self.names else small

    def apply(self, label: Label) -> Label:
        """Return a label, or several labels, of the file as the model names them.

        Raises:
            ValueError: the map has no such label.
        """
        if isinstance(label, tuple):
            return tuple(sorted({self._name(one) for one in label}))
        return self._name(str(label))

    def _name(self, label: str) -> str:
        if label not in self.names:
            raise ValueError(f"and --labels has no name for {label!r}: add {label}=NAME")
        return self.names[label]


def label_problem(unknown: str, names: Sequence[str], labels: Sequence[str]) -> str:
    """Return why a label is not accepted, and how to name it.

    Args:
        unknown: the label.
        names: all labels of the file.
        labels: those of the model.
    """
    problem = f"label {unknown!r} is not the model's ({', '.join(labels)})"
    if all(map(is_whole_number, names)) and {int(name) for name in names} <= set(range(len(labels))):
        spelled = {int(name): name for name in names}  # such as 01
        pairs = [(spelled.get(i, str(i)), label) for i, label in enumerate(labels)]
        return f"{problem}; if the numbers are positions in that order, add --labels {_command(pairs)}"
    pairs = [(name, "NAME") for name in names if name not in labels]
    pairs += [(name, name) for name in names if name in labels]
    return f"{problem}; say which label of the model each is: --labels {_command(pairs)}"


def _command(pairs: Sequence[tuple[str, str]]) -> str:
    shown, more = pairs[:NAMED], ",…" if len(pairs) > NAMED else ""
    if any(mark in part for pair in shown for part in pair for mark in f"{RESERVED}'\""):
        return f"'{json.dumps(dict(shown), ensure_ascii=False)}'{more}"
    text = ",".join(f"{label}={name}" for label, name in shown)
    return text + more if re.fullmatch(r"[\w=,.-]+", text) else f"'{text}{more}'"


def _pair(value: str, part: str) -> tuple[str, str]:
    label, _, name = part.partition("=")
    if part.count("=") != 1:
        raise InputError(f"--labels is {value!r}: {part!r} is no pair; wanted {EXAMPLE}")
    return label.strip(), name.strip()


def _json_pairs(value: str) -> list[tuple[str, str]]:
    try:
        pairs: list[tuple[str, str]] = json.loads(value, object_pairs_hook=list)
    except ValueError as error:
        raise InputError(f"--labels is {value!r}, which is not valid JSON ({error}): wanted {EXAMPLE}") from None
    return pairs


def _repeated(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)
