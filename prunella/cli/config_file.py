"""--config FILE and --print-config: read the options of a command from a file, and print them for one."""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from models.errors import InputError
from prunella.cli.output import print_json

OWN_OPTIONS = {"config", "show_config"}


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Use the values of a TOML or JSON file as defaults of the command's options; flags override them.

    Raises:
        InputError: the file cannot be read, or has a key that is not an option of the command.
    """
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"--config {path} cannot be read: {reason}") from None
    known = {str(option.name) for option in context.command.params} - OWN_OPTIONS
    options = {key.replace("-", "_"): value for key, value in values.items()} if isinstance(values, dict) else {}
    if not isinstance(values, dict) or (unknown := sorted(options.keys() - known)):
        is_table = isinstance(values, dict)
        problem = f"has the unknown option {unknown[0]!r}" if is_table else "is not a table of options"
        raise InputError(f"--config {path} {problem}: wanted some of {', '.join(sorted(known))}")
    several = {str(option.name) for option in context.command.params if getattr(option, "multiple", False)}
    context.default_map = {
        key: value if key in several and isinstance(value, list) else _as_flag(key, value, path)
        for key, value in options.items()
    }
    return path


def print_config(context: typer.Context, show_config: bool) -> None:
    """Print the options as one JSON object that --config can read, and exit."""
    if show_config:
        names = [str(option.name) for option in context.command.params if option.name not in OWN_OPTIONS | {"help"}]
        options = {name: context.params.get(name) for name in names}
        print_json({name: str(v) if isinstance(v, Path) else v for name, v in options.items() if v is not None})
        raise typer.Exit


def _as_flag(key: str, value: Any, path: Path) -> Any:
    """Return a value as it is written on the command line; the items of a list are joined with commas.

    Raises:
        InputError: the value is a table.
    """
    if isinstance(value, dict):
        raise InputError(f"--config {path}: {key} is a table, wanted a value")
    return ",".join(map(str, value)) if isinstance(value, list) else value


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", help="TOML or JSON file with options; flags override it", is_eager=True, callback=read_config
    ),
]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="print the options as JSON for --config, and exit")]
