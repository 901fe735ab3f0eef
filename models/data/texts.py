"""read_texts(): files, Hub data sets and the built-in sets → checked rows.

A row is a text, or two texts for pair tasks, and may have a label: one name, several names or a number, by the
kind of task. Files must be UTF-8; a text must not be empty. check_labels() says whether a model can learn from one
part and be judged on the other.
"""

import hashlib
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from models.data.builtin import read_bbc_news
from models.data.columnar import HUB, read_hub, read_parquet
from models.data.labels import SURROGATE, Label, label_names, parse_label
from models.data.reading import READERS, Placed, read_records
from models.data.split import split_rows
from models.errors import InputError
from models.record import Record
from models.task import Kind, Task
from models.tokens import Row

BUILTIN = "builtin:"
BUILTIN_SETS = ("builtin:bbc-news:train", "builtin:bbc-news:validation", "builtin:bbc-news:test")
PARQUET = ".parquet"
WRITTEN = (".csv", ".tsv")  # a cell is a text: lists and numbers are written out
Targets = NDArray[np.int64] | NDArray[np.float32]


class Columns(Record):
    """The names of the columns (CSV, TSV, Parquet) or keys (JSONL) that hold the texts and the label."""

    text: str = Field("text", description="column of the text, or of a pair's first text")
    text_pair: str = Field("text_pair", description="column of a pair's second text")
    label: str = Field("label", description="column of the label")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({self.text, self.text_pair, self.label}) < 3:
            raise ValueError("text, second text and label are three columns: wanted three names")
        return self

    def find(self, source: str, names: Sequence[str]) -> list[str]:
        """Return those of the three that are among `names`, in this order: text, second text, label.

        Raises:
            InputError: there is no text; or a column is missing that was asked for by a name of its own.
        """
        found = []
        for field, column in (("text", self.text), ("text_pair", self.text_pair), ("label", self.label)):
            if column in names:
                found.append(column)
            elif field == "text" or column != Columns.model_fields[field].default:
                raise InputError(f"{source} has no column {column!r}: it has {', '.join(names)}")
        return found


@dataclass(frozen=True, slots=True)
class Texts:
    """Checked rows. `labels` is None when the source had no label column; by kind they are str, tuples or floats."""

    rows: list[Row]
    labels: Sequence[Label] | None
    source: str  # where they came from, for messages and reports
    kind: Kind = "single"

    def __post_init__(self) -> None:
        if self.labels is not None and len(self.labels) != len(self.rows):
            raise ValueError(f"{self.source}: {len(self.rows)} rows and {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def pair(self) -> bool:
        """Whether each row is two texts."""
        return bool(self.rows) and len(self.rows[0]) == 2

    @property
    def sha256(self) -> str:
        """Hash of rows and labels: what identifies the data in a stage's configuration."""
        digest = hashlib.sha256()
        for row, label in zip(self.rows, self.labels or itertools.repeat(None), strict=False):
            digest.update(json.dumps([row, label]).encode())
        return digest.hexdigest()

    def joined(self, more: "Texts") -> "Texts":
        """Return these rows and `more`, without labels.

        Raises:
            InputError: one has pairs, the other single texts.
        """
        if more.pair != self.pair:
            found, wanted = ("pairs", "single texts") if more.pair else ("single texts", "pairs")
            raise InputError(f"{more.source} has {found}, {self.source} {wanted}: wanted rows of one form")
        return Texts([*self.rows, *more.rows], None, f"{self.source} and {more.source}", self.kind)

    def label_names(self) -> tuple[str, ...]:
        """Return the labels that occur, sorted (numbers by their value); a regression's one output is `value`.

        Raises:
            InputError: there are no labels.
        """
        return label_names(self.require_labels(), self.kind)

    def require_labels(self) -> Sequence[Label]:
        """Return the labels.

        Raises:
            InputError: there are none.
        """
        if self.labels is None:
            raise InputError(f"{self.source} has no label column: wanted labelled rows")
        return self.labels

    def targets(self, task: Task) -> Targets:
        """Return what a model of `task` should answer.

        `single`: positions of the labels (rows,), int64. `multi`: 0 or 1, (rows, labels), float32. `regression`: the
        numbers (rows,), float32.

        Raises:
            InputError: there are no labels, the task does not know one, or it is of another kind.
        """
        labels = self.require_labels()
        if self.kind != task.kind:
            raise InputError(f"{self.source} was read for a {self.kind} task, and the model's task is {task.kind}")
        if task.kind == "regression":
            return np.array(labels, dtype=np.float32)
        places = {name: place for place, name in enumerate(task.labels)}
        for name in label_names(labels, self.kind):
            if name not in places:
                raise InputError(f"{self.source}: label {name!r} is not the model's ({', '.join(task.labels)})")
        if task.kind == "single":
            return np.array([places[str(label)] for label in labels], dtype=np.int64)
        targets = np.zeros((len(labels), len(places)), dtype=np.float32)
        for row, names in enumerate(labels):
            targets[row, [places[name] for name in names]] = 1  # type: ignore[union-attr]
        return targets

    def take(self, indices: Iterable[int]) -> "Texts":
        """Return the rows at `indices`, in that order."""
        chosen = list(indices)
        labels = [self.labels[i] for i in chosen] if self.labels is not None else None
        return Texts([self.rows[i] for i in chosen], labels, self.source, self.kind)

    def split(self, fraction: float, seed: int) -> tuple["Texts", "Texts"]:
        """Return two disjoint parts, the second with `fraction` of the rows; stratified, seeded (see `split_rows`).

        Raises:
            InputError: there are no labels, a part would be empty, or a label of a `single` task has one row only.
        """
        try:
            first, second = split_rows(self.require_labels(), self.kind, fraction, seed)
        except InputError as error:
            raise InputError(f"{self.source} cannot be split: {error}; give --validation FILE") from None
        return self.take(first), self.take(second)


def read_texts(source: str | Path, columns: Columns | None = None, kind: Kind = "single") -> Texts:
    """Read a file, a Hub data set or a built-in set.

    Args:
        source: a `.csv`, `.tsv`, `.jsonl` or `.parquet` file; `hub:owner/name:split`; or one of BUILTIN_SETS.
        columns: where the texts and the label are.
        kind: what a label is. `single`: a text or a whole number. `multi`: a list of labels, in CSV and TSV names
            joined by `|`; possibly none. `regression`: a finite number.

    Raises:
        InputError: the source is missing, not UTF-8, empty, lacks a column, or has a row that is not what was wanted;
            the message names the file and the line.
        MissingExtraError: Parquet or a Hub data set was asked for and the package that reads it is not installed.
    """
    name, columns = str(source), columns or Columns()

    def choose(names: Sequence[str]) -> list[str]:
        return columns.find(name, names)

    if name.startswith(BUILTIN):
        return _read_builtin(name, kind)
    if name.startswith(HUB):
        return _checked(name, read_hub(name, choose), columns, kind, written=False)
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix == PARQUET:
        return _checked(name, read_parquet(path, choose), columns, kind, written=False)
    if suffix in READERS:
        return _checked(name, read_records(path), columns, kind, written=suffix in WRITTEN)
    known = ", ".join([*READERS, PARQUET])
    raise InputError(f"{path} ends in {path.suffix or 'nothing'!r}: wanted {known}, hub:… or a built-in set")


def check_labels(train: Texts, held_out: Texts) -> None:
    """Check that a model taught on `train` can be judged on `held_out`.

    Raises:
        InputError: a part has no rows or no labels, the kinds or the numbers of texts a row differ, `train` has
            nothing to tell apart, or `held_out` has a label that `train` has not.
    """
    for part in (train, held_out):
        if not len(part):
            raise InputError(f"{part.source} has no rows in one part: wanted rows to learn from and rows to judge on")
        part.require_labels()
    if train.kind != held_out.kind:
        raise InputError(f"{train.source} has {train.kind} labels, {held_out.source} {held_out.kind} labels")
    if train.pair != held_out.pair:
        pairs, single = (train, held_out) if train.pair else (held_out, train)
        raise InputError(f"{pairs.source} has pairs, {single.source} single texts: wanted the same in both")
    _check_distinct(train)
    unknown = set(held_out.label_names()) - set(train.label_names())
    if unknown:
        raise InputError(f"{held_out.source} has labels that {train.source} has not: {', '.join(sorted(unknown))}")


def _check_distinct(train: Texts) -> None:
    found = set(train.require_labels())
    if train.kind == "multi":
        if not train.label_names():
            raise InputError(f"{train.source} has no row with a label: wanted one label or more")
    elif len(found) < 2:
        what = "number" if train.kind == "regression" else "label"
        raise InputError(f"{train.source} has one {what} only ({found.pop()}): wanted two or more")


def _read_builtin(name: str, kind: Kind) -> Texts:
    if name not in BUILTIN_SETS:
        raise InputError(f"{name} is not built in: there are {', '.join(BUILTIN_SETS)}")
    if kind != "single":
        raise InputError(f"{name} has one label a row: wanted a set for a {kind} task")
    pairs = read_bbc_news(name.rsplit(":", 1)[1])
    return Texts([(text,) for text, _ in pairs], [label for _, label in pairs], name)


def _checked(source: str, records: Iterator[Placed], columns: Columns, kind: Kind, written: bool) -> Texts:
    from tqdm import tqdm

    first = next(records, None)
    if first is None:
        raise InputError(f"{source} has no rows: wanted a text at least")
    found = columns.find(source, list(first[1]))
    text_columns = [column for column in found if column != columns.label]
    rows: list[Row] = []
    labels: list[Label] = []
    bar = tqdm(itertools.chain([first], records), desc=f"read {source}", unit="row", delay=2, file=sys.stderr)
    for where, record in bar:
        rows.append(tuple(_text(where, column, record[column]) for column in text_columns))
        if columns.label in found:
            try:
                labels.append(parse_label(record[columns.label], kind, written))
            except ValueError as error:
                shown = repr(record[columns.label])[:80]
                raise InputError(f"{where}: {columns.label!r} holds {shown}, {error}") from None
    return Texts(rows, labels if columns.label in found else None, source, kind)


def _text(where: str, column: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: {column!r} holds {type(value).__name__}, wanted a text")
    if not value.strip():
        raise InputError(f"{where}: {column!r} is empty")
    if not value.isascii() and SURROGATE.search(value):
        raise InputError(f"{where}: {column!r} holds half of a surrogate pair, which is no text")
    return value
