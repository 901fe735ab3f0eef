"""Options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from models.store.delivery import check_target

if TYPE_CHECKING:
    from models.data.columns import Columns

STORE = Path("store")
Store = Annotated[Path, typer.Option(envvar="PRUNELLA_STORE", help="folder that keeps finished stages for reuse")]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        min=4,
        help="maximum input length in tokens of a Hugging Face folder; longer inputs are truncated; "
        "default: the model's maximum, 512 at most",
    ),
]

Windows = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=64,
        help="most overlapping windows of a text that is too long for the model, whose scores are combined; 1: it is "
        "truncated; default: as the bundle says",
    ),
]
WindowsCombine = Annotated[
    Literal["mean", "max"] | None, typer.Option(help="how the scores of a text's windows are combined; default: mean")
]
Base = Annotated[
    Path | None, typer.Option(help="model of an adapter (LoRA) folder; default: the folder that the adapter names")
]
TextColumn = Annotated[str, typer.Option(help="column of the text, or of the first text of a pair")]
PairColumn = Annotated[str, typer.Option(help="column of the second text of a pair")]
LabelColumn = Annotated[str, typer.Option(help="column of the label")]
LABELS_HELP = "the model's name for each label of the files, such as 0=negative,1=positive, or a JSON object"
SCORES_HELP = (
    "scores of a teacher: a file with columns text (or row) and one for each label, or the output of score --scores"
)
NEAREST_HELP = "take only so many of --texts: those nearest to --train, without repetitions and held-out rows"
Labels = Annotated[str | None, typer.Option(help=LABELS_HELP)]


def read_columns(text: str, pair: str, label: str, labels: str | None = None) -> "Columns":
    """Return the columns of the files, and the names of their labels.

    Raises:
        InputError: `labels` is not the value of --labels.
    """
    from models.data.columns import Columns
    from models.data.label_map import LabelMap

    label_map = LabelMap.parse(labels)
    return Columns(text=text, text_pair=pair, label=label, labels=label_map and label_map.names)


def merged(model: Path, base: Path | None, store: Path) -> Path:
    """Return the folder of the model; for the folder of an adapter, that of the merged model in the store.

    Raises:
        InputError: `base` is given, and the folder has a model of its own; or the adapter cannot be merged.
    """
    from models.forms.adapter import resolve_model

    return resolve_model(model, base, store)


def check_out(out: Path | None) -> Path | None:
    """Check, before any long work, that a finished folder can be copied to --out.

    Raises:
        FolderError: something else exists there, or nothing can be written there.
    """
    if out is not None:
        check_target(out)
    return out


Out = Annotated[Path | None, typer.Option(help="copy the finished folder here", callback=check_out)]
