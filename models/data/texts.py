"""read_texts(): read and validate files, Hub data sets and built-in sets.

A row is one text, or two texts for pair tasks. It may have a label: one name, several names or a number, depending on
the kind of task. Files must be UTF-8; a text must not be empty.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.data.builtin import read_builtin
from models.data.columns import FLAGS, Columns
from models.data.csv_jsonl import READERS, LocatedRecord, read_lines, read_records
from models.data.label_map import LabelMap, label_problem
from models.data.labels import SURROGATE, Label, check_missing, label_names, label_positions, parse_label
from models.data.other_formats import missing_column, suffix_remedy
from models.data.parquet_hub import HUB, read_hub, read_parquet
from models.data.split import split_rows
from models.errors import InputError
from models.messages import progress, say
from models.task import Kind, Task
from models.tokenizer import Row

BUILTIN = "builtin:"
PARQUET = ".parquet"
LINES = ".txt"  # one text a line, for texts without labels
TEXT_CELLS = (".csv", ".tsv")  # formats whose cells are strings, also those of lists and numbers
Targets = NDArray[np.int64] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Texts:
    """Validated rows. `labels` is None if the source has no label column; `kind` decides the type of a label."""

    rows: list[Row]
    labels: Sequence[Label] | None
    source: str  # name of the file or data set, for messages and reports
    kind: Kind = "single"
    label_map: LabelMap | None = None  # the map of --labels, if the labels were renamed by one
    without: str = "no label column"  # what the source lacks if it has no labels, for messages

    def __post_init__(self) -> None:
        if self.labels is not None and len(self.labels) != len(self.rows):
            raise ValueError(f"{self.source}: {len(self.rows)} rows and {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def pair(self) -> bool:
        """Whether each row is a pair of texts."""
        return bool(self.rows) and len(self.rows[0]) == 2

    @property
    def sha256(self) -> str:
        """Hash of rows and labels, which identifies the data in a stage's configuration."""
        digest = hashlib.sha256()
        for row, label in zip(self.rows, self.labels or itertools.repeat(None), strict=False):
            digest.update(json.dumps([row, label]).encode())
        return digest.hexdigest()

    def joined(self, more: "Texts") -> "Texts":
        """Return these rows and those of `more`, without labels.

        Raises:
            InputError: one has pairs, the other single texts.
        """
        if more.pair != self.pair:
            theirs, ours = ("pairs", "single texts") if more.pair else ("single texts", "pairs")
            raise InputError(f"{more.source} has {theirs}, {self.source} {ours}: wanted rows of one form")
        return Texts([*self.rows, *more.rows], None, f"{self.source} and {more.source}", self.kind)

    def label_names(self) -> tuple[str, ...]:
        """Return the distinct labels, sorted (integers by value, before other names); for a regression ("value",).

        Raises:
            InputError: there are no labels.
        """
        return label_names(self.require_labels(), self.kind)

    def require_labels(self) -> Sequence[Label]:
        """Return the labels.

        Raises:
            InputError: the rows have no labels.
        """
        if self.labels is None:
            raise InputError(f"wanted labelled rows, and {self.source} has {self.without}")
        return self.labels

    def targets(self, task: Task) -> Targets:
        """Return the labels as training targets of a model of `task`.

        `single`: label indices (rows,), int64. `multi`: 0 or 1, (rows, labels), float32. `regression`: the numbers
        (rows,), float32.

        Raises:
            InputError: there are no labels, the task lacks one of them, or the task is of another kind.
        """
        labels = self.require_labels()
        if self.kind != task.kind:
            raise InputError(f"{self.source} was read for a {self.kind} task, and the model's task is {task.kind}")
        if task.kind == "regression":
            return np.array(labels, dtype=np.float32)
        if self.label_map is not None:
            self.label_map.check(task.labels)
        index_of = self._indices(task, label_names(labels, self.kind))
        if task.kind == "single":
            return np.array([index_of[str(label)] for label in labels], dtype=np.int64)
        targets = np.zeros((len(labels), len(index_of)), dtype=np.float32)
        for row, given in enumerate(labels):
            targets[row, [index_of[name] for name in given]] = 1  # type: ignore[union-attr]
        return targets

    def _indices(self, task: Task, names: tuple[str, ...]) -> dict[str, int]:
        """Return the number of each label of a model by its name, or by its position as text if it has no names.

        Raises:
            InputError: one of `names` is not the model's, or two of its labels differ in spaces only.
        """
        index_of = {name.strip(): index for index, name in enumerate(task.labels)}  # as `parse_label` strips names
        if len(index_of) < len(task.labels):
            raise InputError(f"two labels of the model differ in spaces only: {', '.join(map(repr, task.labels))}")
        positions = label_positions(task.labels)
        if positions and not index_of.keys() & set(names):
            index_of = positions
        if unknown := next((name for name in names if name not in index_of), None):
            raise InputError(f"{self.source}: {label_problem(unknown, names, task.labels)}")
        if index_of is positions and names:
            _say_positions(self.source, len(positions))
        return index_of

    def take(self, indices: Iterable[int]) -> "Texts":
        """Return the rows at `indices`, in that order."""
        chosen = list(indices)
        labels = [self.labels[i] for i in chosen] if self.labels is not None else None
        return replace(self, rows=[self.rows[i] for i in chosen], labels=labels)

    def split(self, fraction: float, seed: int) -> tuple["Texts", "Texts"]:
        """Return two disjoint stratified parts, the second with `fraction` of the rows (see `split_rows`).

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
        source: a `.csv`, `.tsv`, `.jsonl` or `.parquet` file; `hub:owner/name:split`; or a built-in set. Texts
            without labels may also be the lines of a `.txt` file; empty lines are left out.
        columns: names of the columns of the texts and the label.
        kind: kind of the labels. `single`: a text or a whole number. `multi`: a list of labels, possibly empty; in
            CSV and TSV, names joined by `|`. `regression`: a finite number.

    Raises:
        InputError: the source is missing, not UTF-8, empty, lacks a column, or has an invalid row; the message names
            the file and the line.
        MissingExtraError: the package that reads Parquet files or Hub data sets is not installed.
    """
    name, columns = str(source), columns or Columns()

    known: list[str] = []  # all columns of a source of which only the chosen ones are read

    def choose(names: Sequence[str]) -> list[str]:
        known.extend(names)
        return columns.find(name, names)

    def chosen(records: Iterator[LocatedRecord]) -> Texts:
        texts = _validate(name, records, columns, kind, as_text=False)
        return replace(texts, without=_without_labels(columns, known, kind))

    if name.startswith(BUILTIN):
        pairs = zip(*read_builtin(name, kind), strict=True)
        records = ((name, {"text": text, "label": value}) for text, value in pairs)
        return _validate(name, records, Columns(labels=columns.labels), kind, as_text=False)
    if name.startswith(HUB):
        return chosen(read_hub(name, choose))
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix == PARQUET:
        return chosen(read_parquet(path, choose))
    if suffix in READERS:
        return _validate(name, read_records(path), columns, kind, as_text=suffix in TEXT_CELLS)
    if suffix == LINES and columns.ignores_label:
        lines = ((f"{path}, line {n}", {columns.text: line.strip()}) for n, line in enumerate(read_lines(path), 1))
        return _validate(name, (one for one in lines if one[1][columns.text]), columns, kind, as_text=True)
    if path.is_dir():
        raise InputError(f"{path} is a folder: wanted one file of rows; join its files, or give one of them")
    if not path.exists() and not path.suffix:
        raise InputError(f"there is no {path}: wanted a file of rows, hub:owner/name:split, or builtin:NAME:PART")
    supported = ", ".join([*READERS, PARQUET, *([LINES] if columns.ignores_label else [])])
    raise InputError(
        f"{path} ends in {path.suffix or 'nothing'!r}: wanted {supported}, hub:… or a built-in set"
        f"{suffix_remedy(suffix)}"
    )


def _validate(source: str, records: Iterator[LocatedRecord], columns: Columns, kind: Kind, as_text: bool) -> Texts:

    first = next(records, None)
    if first is None:
        raise InputError(f"{source} has no rows: wanted one text or more")
    present = columns.find(source, list(first[1]))
    label_map = LabelMap(columns.labels) if columns.labels is not None else None
    if label_map is not None and kind == "regression":
        raise InputError("--labels is for labels, and the model answers with a number: leave it out")
    text_columns = [column for column in present if column != columns.label]
    rows: list[Row] = []
    labels: list[Label] = []
    bar = progress(itertools.chain([first], records), desc=f"read {source}", unit="row", delay=2)
    keys = sorted({columns.text, columns.text_pair, *(() if columns.ignores_label else (columns.label,))})
    for where, record in bar:
        if differing := [name for name in keys if (name in record) != (name in present)]:
            verb = "lacks" if differing[0] in present else "adds"
            raise InputError(f"{where}: the row {verb} {differing[0]!r}; wanted the keys of the first row")
        rows.append(tuple(_text(where, column, record[column]) for column in text_columns))
        if columns.label in present:
            try:
                cell = record[columns.label] if label_map is None else label_map.cell(record[columns.label])
                label = parse_label(cell, kind, as_text)
                labels.append(label if label_map is None else label_map.apply(label))
            except ValueError as error:
                excerpt = repr(record[columns.label])[:80]
                raise InputError(f"{where}: {columns.label!r} holds {excerpt}, {error}") from None
    if kind == "single" and label_map is None:
        check_missing(source, labels)
    if columns.label in present:
        return Texts(rows, labels, source, kind, label_map)
    return Texts(rows, None, source, kind, label_map, _without_labels(columns, list(first[1]), kind))


def _without_labels(columns: Columns, names: Sequence[str], kind: Kind) -> str:
    """Return what a source with the columns `names` lacks if it has no labels, and what to do."""
    lacks = missing_column(columns.label, FLAGS["label"], names)
    several = "; the labels of a row are one cell: a list, or in CSV and TSV names joined by |"
    return lacks + (several if kind == "multi" else "")


def _text(where: str, column: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: {column!r} holds {type(value).__name__}, wanted a text")
    if not value.strip():
        raise InputError(f"{where}: {column!r} is empty")
    if not value.isascii() and (match := SURROGATE.search(value)):
        raise InputError(f"{where}: {column!r} holds an unpaired surrogate \\u{ord(match[0]):x}: not valid Unicode")
    return value


@cache
def _say_positions(source: str, count: int) -> None:
    say(f"{source}: labels 0 to {count - 1} are taken for LABEL_0 to LABEL_{count - 1}: the model names no others")
