"""read_parquet() and read_hub(): read selected columns of a Parquet file or a Hub data set, one batch at a time.

pyarrow (extra `train`) and `datasets` (extra `hub`) are imported when they are used.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from models.data.csv_jsonl import LocatedRecord, check_header
from models.errors import InputError, MissingExtraError

ChooseColumns = Callable[[Sequence[str]], list[str]]  # all columns → the columns to read; may raise InputError
HUB = "hub:"
BATCH_ROWS = 1000
NO_CLASS = -1  # class index of a row without a label, in data sets of `datasets`
TIMEOUT_SECONDS = 10.0  # of the request that checks that the hub is reachable and has the data set
_HUB_NAME = re.compile(r"hub:(?P<repo>\w[\w.-]*/\w[\w.-]*)(:(?P<config>[\w.-]+))?:(?P<split>\w+)")
_OLDEST_DATASETS = 4  # major version; older ones run the code that a data set contains


def read_parquet(path: Path, choose: ChooseColumns) -> Iterator[LocatedRecord]:
    """Yield the rows of a Parquet file with the columns that `choose` selects.

    Raises:
        InputError: the file cannot be read, is not a Parquet file, or has a text that is not UTF-8; or `choose`
            raises it.
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise _missing(error, "train") from None
    number = 0
    try:
        with path.open("rb") as stream, pyarrow.parquet.ParquetFile(stream) as file:
            check_header(str(path), file.schema_arrow.names)
            columns = choose(file.schema_arrow.names)
            classes = _class_columns(file.schema_arrow.metadata or {})
            for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                for record in batch.to_pylist():
                    number += 1
                    for column in classes & record.keys():
                        record[column] = None if record[column] == NO_CLASS else record[column]
                    yield f"{path}, row {number}", record
    except pyarrow.ArrowException as error:
        raise InputError(f"{path} is not a whole Parquet file: {_one_line(error)}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}, after row {number}: a text is not UTF-8; convert the file first") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or _one_line(error)}") from None


def _class_columns(metadata: dict[bytes, bytes]) -> set[str]:
    """Return the columns of class indices in a Parquet file that `datasets` has written."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {name for name, feature in features.items() if feature.get("_type") == "ClassLabel"}
    except (KeyError, TypeError, AttributeError, ValueError):  # another program has written the file
        return set()


def read_hub(name: str, choose: ChooseColumns) -> Iterator[LocatedRecord]:
    """Yield the rows of a Hub data set with the columns that `choose` selects.

    The name is `hub:owner/name:split` or `hub:owner/name:configuration:split`.

    Class indices are replaced by the names of the classes. The network is used unless HF_HUB_OFFLINE=1, which the
    command line sets by default: then the data set must be in the cache of `datasets`.

    Raises:
        InputError: the name is malformed or unknown, or the data set cannot be loaded; or `choose` raises it.
        MissingExtraError: `datasets` is not installed, or is too old.
    """
    parts = _HUB_NAME.fullmatch(name)
    if parts is None:
        raise InputError(f"{name} is not the name of a data set: wanted hub:owner/name:split")
    if Path(parts["repo"]).exists():
        raise InputError(
            f"{parts['repo']} is a path here too, which `datasets` would read: run the command in another folder"
        )
    data = _load(name, parts["repo"], parts["config"], parts["split"])
    data = data.select_columns(choose(data.column_names))
    converters = {column: _class_names(feature) for column, feature in data.features.items()}
    number = 0
    for batch in data.iter(BATCH_ROWS):
        for cells in zip(*batch.values(), strict=True):
            number += 1
            record = {column: converters[column](cell) for column, cell in zip(batch, cells, strict=True)}
            yield f"{name}, row {number}", record


def _load(name: str, repo: str, config: str | None, split: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise _missing(error, "hub") from None
    if int(datasets.__version__.split(".")[0]) < _OLDEST_DATASETS:
        raise MissingExtraError(
            f"datasets {datasets.__version__} runs code that data sets contain: wanted {_OLDEST_DATASETS} or newer; "
            "pip install 'prunella[hub]'"
        )
    if not datasets.config.HF_HUB_OFFLINE:
        _check_hub(name, repo)
    try:
        return datasets.load_dataset(repo, config, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        advice = "; the network is off: set HF_HUB_OFFLINE=0 to use it" if datasets.config.HF_HUB_OFFLINE else ""
        raise InputError(f"{name} cannot be loaded ({_one_line(error)}){advice}") from None


def _check_hub(name: str, repo: str) -> None:
    """Send one request to the hub first: without a network, `datasets` retries for half a minute before it fails."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info(repo, timeout=TIMEOUT_SECONDS)
    except HfHubHTTPError as error:
        raise InputError(f"cannot access {name}: {_one_line(error)}") from None
    except OSError as error:
        raise InputError(
            f"{name}: the hub cannot be reached ({type(error).__name__}); HF_HUB_OFFLINE=1 uses the cache"
        ) from None


def _class_names(feature: Any) -> Callable[[Any], Any]:
    """Return a function that converts a cell of class indices to class names; it leaves other cells unchanged."""

    def name_of(names: list[str], cell: Any) -> str | None:
        return names[cell] if isinstance(cell, int) and 0 <= cell < len(names) else None  # -1 means no label

    class_names = getattr(feature, "names", None)  # a column with one class per row
    list_names = getattr(getattr(feature, "feature", None), "names", None)  # a column with a list of classes
    if class_names is not None:
        return lambda cell: name_of(class_names, cell)
    if list_names is not None:
        return lambda cells: None if cells is None else [name_of(list_names, cell) for cell in cells]
    return lambda cell: cell


def _missing(error: ImportError, extra: str) -> MissingExtraError:
    return MissingExtraError(f"{error.name} is not installed: pip install 'prunella[{extra}]'")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
