"""read_parquet() and read_hub(): columnar sources → records of the columns that are wanted, a batch at a time.

pyarrow (extra `train`) and `datasets` (extra `hub`) are imported when they are used.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from models.data.reading import Placed, check_header
from models.errors import InputError, MissingExtraError

Choose = Callable[[Sequence[str]], list[str]]  # all columns → those to read, or an InputError
HUB = "hub:"
BATCH_ROWS = 1000
TIMEOUT_SECONDS = 10.0  # of the one question whether the hub can be reached and knows the name
_HUB_NAME = re.compile(r"hub:(?P<repo>\w[\w.-]*/\w[\w.-]*)(:(?P<config>[\w.-]+))?:(?P<split>\w+)")
_OLDEST_DATASETS = 4  # older ones run the code that a data set brings


def read_parquet(path: Path, choose: Choose) -> Iterator[Placed]:
    """Yield the rows of a Parquet file with the columns that `choose` takes.

    Raises:
        InputError: the file cannot be read, is no Parquet, or has a text that is not UTF-8; or `choose` raises it.
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise _missing(error, "train") from None
    number = 0
    try:
        with path.open("rb") as opened, pyarrow.parquet.ParquetFile(opened) as file:
            check_header(str(path), file.schema_arrow.names)
            names = choose(file.schema_arrow.names)
            for batch in file.iter_batches(BATCH_ROWS, columns=names):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", record
    except pyarrow.ArrowException as error:
        raise InputError(f"{path} is not a whole Parquet file: {_sentence(error)}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}, after row {number}: a text is not UTF-8; write the file anew") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or _sentence(error)}") from None


def read_hub(name: str, choose: Choose) -> Iterator[Placed]:
    """Yield the rows of a Hub data set with the columns that `choose` takes.

    The name is `hub:owner/name:split` or `hub:owner/name:configuration:split`.

    Whole numbers that stand for classes become the names of the classes. The network is used
    unless HF_HUB_OFFLINE=1, which the command line sets by default: then the set must be in the cache of `datasets`.

    Raises:
        InputError: the name is malformed or unknown, the set is not there; or `choose` raises it.
        MissingExtraError: `datasets` is not installed, or is too old.
    """
    parts = _HUB_NAME.fullmatch(name)
    if parts is None:
        raise InputError(f"{name} is not a data set's name: wanted hub:owner/name:split")
    if Path(parts["repo"]).exists():
        raise InputError(f"{parts['repo']} is a path here too, which `datasets` would read: start elsewhere")
    data = _load(name, parts["repo"], parts["config"], parts["split"])
    data = data.select_columns(choose(data.column_names))
    naming = {column: _class_names(feature) for column, feature in data.features.items()}
    number = 0
    for batch in data.iter(BATCH_ROWS):
        for cells in zip(*batch.values(), strict=True):
            number += 1
            record = {column: naming[column](cell) for column, cell in zip(batch, cells, strict=True)}
            yield f"{name}, row {number}", record


def _load(name: str, repo: str, config: str | None, split: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise _missing(error, "hub") from None
    if int(datasets.__version__.split(".")[0]) < _OLDEST_DATASETS:
        raise MissingExtraError(
            f"datasets {datasets.__version__} runs code that data sets bring: wanted {_OLDEST_DATASETS} or newer; "
            "pip install -e '.[hub]'"
        )
    if not datasets.config.HF_HUB_OFFLINE:
        _ask_hub(name, repo)
    try:
        return datasets.load_dataset(repo, config, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        advice = "; the network is off: set HF_HUB_OFFLINE=0 to use it" if datasets.config.HF_HUB_OFFLINE else ""
        raise InputError(f"{name} cannot be loaded ({_sentence(error)}){advice}") from None


def _ask_hub(name: str, repo: str) -> None:
    """Ask once, since `datasets` tries for half a minute before it says that there is no network."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info(repo, timeout=TIMEOUT_SECONDS)
    except HfHubHTTPError as error:
        raise InputError(f"{name} is not to be had: {_sentence(error)}") from None
    except OSError as error:
        raise InputError(
            f"{name}: the hub cannot be reached ({type(error).__name__}); HF_HUB_OFFLINE=1 uses the cache"
        ) from None


def _class_names(feature: Any) -> Callable[[Any], Any]:
    """Return what turns a cell of a column into names, where the column holds classes; other cells stay."""

    def name_of(names: list[str], cell: Any) -> str | None:
        return names[cell] if isinstance(cell, int) and 0 <= cell < len(names) else None  # -1 stands for no label

    one = getattr(feature, "names", None)
    many = getattr(getattr(feature, "feature", None), "names", None)
    if one is not None:
        return lambda cell: name_of(one, cell)
    if many is not None:
        return lambda cells: None if cells is None else [name_of(many, cell) for cell in cells]
    return lambda cell: cell


def _missing(error: ImportError, extra: str) -> MissingExtraError:
    return MissingExtraError(f"{error.name} is not installed: pip install -e '.[{extra}]'")


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
