"""What verbs share: the last line on stdout is one JSON object; everything for people goes to stderr."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from models.delivery import check_target, copy_folder
from models.distributed import rank
from models.errors import MissingExtraError
from models.folder import REPORT
from models.stage import Made

STORE = Path("store")
Store = Annotated[Path, typer.Option(envvar="PRUNELLA_STORE", help="where finished stages are kept and reused")]
MaxTokens = Annotated[
    int | None,
    typer.Option(min=4, help="of a Hugging Face folder: longer inputs are cut; default: its positions, 512 at most"),
]


def check_out(out: Path | None) -> Path | None:
    """Refuse, before any long work, an --out where no finished folder can be put.

    Raises:
        FolderError: something else is there, or nothing can be written there.
    """
    if out is not None:
        check_target(out)
    return out


Out = Annotated[Path | None, typer.Option(help="copy the finished folder here", callback=check_out)]


def show(result: dict[str, Any]) -> None:
    """Print one JSON object on stdout; of several processes the first speaks."""
    if rank() == 0:
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


def say(line: str) -> None:
    """Tell people, on stderr, what is going on; of several processes the first speaks."""
    if rank() == 0:
        sys.stderr.write(f"prunella: {line}\n")


def finish(verb: str, made: Made, out: Path | None, **more: Any) -> None:
    """Copy the folder where it was wanted, and print the verb's last line: the report without its details."""
    folder = copy_folder(made.folder, out) if out and rank() == 0 else made.folder
    report = folder.path / REPORT
    told = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}
    told.pop("details", None)
    show({"verb": verb, "folder": str(folder.path), "id": folder.id, "reused": made.reused, **told, **more})


def need(module: str, extra: str) -> None:
    """Refuse a verb whose packages are not installed."""
    if importlib.util.find_spec(module) is None:
        raise MissingExtraError(f"this verb needs {module}: pip install -e '.[{extra}]'")
