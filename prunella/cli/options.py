"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from models.store.delivery import check_target

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


TextColumn = Annotated[str, typer.Option(help="column of the text, or of the first text of a pair")]
PairColumn = Annotated[str, typer.Option(help="column of the second text of a pair")]
LabelColumn = Annotated[str, typer.Option(help="column of the label")]


def check_out(out: Path | None) -> Path | None:
    """Check, before any long work, that a finished folder can be copied to --out.

    Raises:
        FolderError: something else exists there, or nothing can be written there.
    """
    if out is not None:
        check_target(out)
    return out


Out = Annotated[Path | None, typer.Option(help="copy the finished folder here", callback=check_out)]
