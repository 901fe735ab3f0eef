"""score_records(): the records of a file of scores, or of what `prunella score --scores` wrote.

The latter is a folder of parts, whose column `scores` is a list of labels with their scores; each record of it
becomes one with a column for each label, as in other files of scores.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from models.data.columns import Columns
from models.data.csv_jsonl import READERS, LocatedRecord, read_records
from models.data.parquet_hub import read_parquet
from models.data.texts import PARQUET
from models.errors import InputError

SUCCESS = "_SUCCESS"  # prunella score writes it last
ADDED = ("scores", "error", "bundle")  # columns by which its output is recognized, behind its --prefix


def score_records(path: Path, columns: Columns) -> Iterator[LocatedRecord]:
    """Yield the records of a file or of an output folder of `prunella score`; rows with an error are left out.

    Raises:
        InputError: the file cannot be read or is of another format, the folder is no finished output, or its rows
            have no `scores`.
    """
    for part in _parts(path):
        records = read_parquet(part, list) if part.suffix.lower() == PARQUET else read_records(part)
        for where, record in records:
            if (prefix := _prefix(record)) is not None:
                if not record[f"{prefix}error"]:
                    yield where, _by_label(where, record, f"{prefix}scores", columns)
            elif path.is_dir():
                raise InputError(f"{where}: the row has no 'scores': give `prunella score` the flag --scores")
            else:
                yield where, record


def _parts(path: Path) -> list[Path]:
    """Return the files to read: the path itself, or the parts of a folder in their order."""
    kinds = (*READERS, PARQUET)
    if not path.is_dir():
        if not path.exists() and not path.suffix:
            raise InputError(f"there is no {path}: wanted a file of scores, or an output folder of `prunella score`")
        if path.suffix.lower() not in kinds:
            raise InputError(f"{path} ends in {path.suffix.lower() or 'nothing'!r}: wanted {', '.join(kinds)}")
        return [path]
    if not (path / SUCCESS).is_file():
        raise InputError(f"{path} has no {SUCCESS}: wanted a file, or a finished output of `prunella score --scores`")
    return sorted(part for part in path.rglob("part-*") if part.suffix.lower() in kinds)


def _prefix(record: Mapping[str, Any]) -> str | None:
    """Return what stands before the names of the columns that `prunella score` added; None: it added none."""
    prefixes = (name.removesuffix(ADDED[0]) for name in record if name.endswith(ADDED[0]))
    return next((one for one in prefixes if all(f"{one}{name}" in record for name in ADDED)), None)


def _by_label(where: str, record: Mapping[str, Any], column: str, columns: Columns) -> dict[str, Any]:
    """Return the record's texts, and the score of each label as a column of its own."""
    scores = record[column]
    try:
        pairs = json.loads(scores) if isinstance(scores, str) else scores  # a cell of CSV is JSON
        by_label = {one["label"]: one["score"] for one in pairs}
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{where}: {column!r} holds {str(scores)[:40]!r}, wanted labels with their scores") from None
    texts = {name: record[name] for name in (columns.text, columns.text_pair) if name in record}
    return texts | by_label
