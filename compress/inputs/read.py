"""read_inputs(): read the files that a user names, open the model, and decide the role of each labelled row."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from compress.inputs.inputs import CompressionInputs
from compress.inputs.provenance import judged_on_training_rows, split_train
from compress.inputs.source import open_source, source_kind, with_windows
from models import task as task_file
from models.data.columns import Columns
from models.data.overlap import without
from models.data.roles import RowRoles
from models.data.texts import Texts, read_texts
from models.errors import InputError
from models.messages import say
from models.retrieval.nearest_texts import nearest_texts
from models.task import Combine, Kind, Task


@dataclass(frozen=True, slots=True)
class Files:
    """Paths from the flags of `compress`."""

    train: str
    validation: str | None = None  # None: a tenth of `train`
    test: str | None = None  # None: half of `validation`
    texts: str | None = None  # additional training texts
    nearest: int | None = None  # take only so many of `texts`, the nearest to `train`
    columns: Columns = field(default_factory=Columns)

    def read(self, source: str, kind: Kind) -> Texts:
        """Read one of the files."""
        return read_texts(source, self.columns, kind)


def _without_held_out(more: Texts, roles: RowRoles) -> Texts:
    """Leave out further texts that are labelled rows: no student may learn the rows on which it is judged."""
    kept = without(more, roles.everything.rows)
    if not len(kept):
        raise InputError(f"all {len(more)} rows of {more.source} are labelled rows as well: wanted further texts")
    if dropped := len(more) - len(kept):
        say(
            f"{dropped} of {len(more)} rows of {more.source} are labelled rows, apart from case, punctuation and "
            "spaces: they are left out"
        )
    return kept


@dataclass(frozen=True, slots=True)
class LongTexts:
    """What happens to texts that are longer than the model takes."""

    max_tokens: int | None = None  # limit of a Hugging Face folder
    windows: int | None = None  # most windows of a text; None: as the classifier's task says
    combine: Combine | None = None


def read_inputs(  # noqa: PLR0913 (the files, and how they are read)
    model: Path,
    files: Files,
    store: Path,
    long_texts: LongTexts | None,
    seed: int,
    check: Callable[[CompressionInputs], object] | None = None,
) -> CompressionInputs:
    """Return the inputs of a compression, and print on stderr which rows choose and which are reported.

    `check` is called with the inputs as they are before the nearest of many texts are chosen, which takes long.

    Raises:
        InputError: a file or the model has another form than expected, or there are no labels to evaluate with.
    """
    kind, long_texts = source_kind(model), long_texts or LongTexts()
    train = files.read(files.train, kind)
    numbered = train.rows
    source = open_source(model, store, train.pair, long_texts.max_tokens)
    task = Task.read(source.path / task_file.FILE)
    if train.labels is not None:
        train.targets(task)  # raises for a label that the model does not have; texts of --texts have no labels
    validation = files.read(files.validation, kind) if files.validation else None
    if validation is None:
        train, validation, on_training_rows = split_train(train, source.path, seed)
    else:
        on_training_rows = judged_on_training_rows(train, validation, source.path, seed)
    validation.targets(task)
    roles = RowRoles(validation, files.read(files.test, kind)) if files.test else RowRoles.of(validation, seed)
    if files.test:
        roles.judged.targets(task)
        on_training_rows = judged_on_training_rows(train, roles.judged, source.path, seed)
    roles.announce("shapes, precisions and the bundle")
    source = with_windows(source, store, long_texts.windows, long_texts.combine)
    inputs = CompressionInputs(source, train, roles.choosing, roles.reported, on_training_rows, numbered=numbered)
    if not files.texts:
        return inputs
    more = read_texts(files.texts, files.columns.unlabelled(), kind)
    numbered = [*numbered, *more.rows]
    if files.nearest is not None:
        if check is not None:
            check(replace(inputs, numbered=numbered))
        more = nearest_texts(more, train, [roles.choosing, roles.judged], files.nearest, store)
    more = _without_held_out(more, roles)
    return replace(inputs, train=train.joined(more), parts=(train, more), numbered=numbered)
