"""The commands `prunella store list` and `prunella store clean`: show the store's folders, and remove some."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from models.errors import CheckError, InputError
from models.messages import say
from models.store.inventory import Entry, Selection, find_damaged, list_store, remove, select
from models.store.units import duration, size
from prunella.cli.options import STORE, Store
from prunella.cli.output import show

UNITS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0}  # seconds

app = typer.Typer(
    help="List the folders of the store, and remove those that are no longer needed.", no_args_is_help=True
)


@app.command("list")
def show_store(
    store: Store = STORE,
    verify: Annotated[
        bool, typer.Option(help="read every file and compare its hash; exit code 1 if one is damaged")
    ] = False,
) -> None:
    """List the folders of the store: size, age, last use, and the folders that were derived from each."""
    entries = list_store(store)
    damaged = find_damaged(store, entries) if verify else {}
    for line in table(entries):
        say(line)
    for reason in damaged.values():
        say(f"DAMAGED: {reason}")
    more: dict[str, Any] = {"damaged": sorted(damaged)} if verify else {}
    show({"verb": "store list", **_summary(store, entries), **more})
    if damaged:
        raise CheckError(f"{len(damaged)} of {len(entries)} folders in {store} are damaged")


@app.command("clean")
def clean_store(
    older_than: Annotated[
        str | None, typer.Option(help="remove folders that no command has used for this time, such as 30d or 12h")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="remove leftovers of runs that were killed more than a day ago")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="remove all folders that are not in use")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="remove the folders; without it, they are only listed")] = False,
    store: Store = STORE,
) -> None:
    """Remove folders from the store, but never one that a running command uses. Without --yes nothing is removed.

    A command that needs a removed folder creates it again.
    """
    if not (older_than or partial or everything):
        raise InputError("nothing is selected: give --older-than 30d, --partial or --all")
    unused = read_time(older_than) if older_than else None
    entries = list_store(store)
    chosen = select(entries, Selection(unused, partial, everything))
    for line in table(chosen):
        say(line)
    removed, failed = _remove(store, chosen) if yes else ([], [])
    freed = sum(entry.bytes for entry in (removed if yes else chosen))
    amount = f"{len(removed if yes else chosen)} folders, {size(freed)}"
    say(f"removed {amount}" if yes else f"would remove {amount}: pass --yes to remove them")
    show({
        "verb": "store clean", **_summary(store, chosen), "dry_run": not yes,
        "removed": [entry.name for entry in removed], "freed_bytes": freed if yes else 0,
        "in_use": [entry.name for entry in entries if entry.in_use],
    })  # fmt: skip
    if failed:
        raise CheckError(f"{len(failed)} folders could not be removed: {'; '.join(failed)}")


def _remove(store: Path, chosen: list[Entry]) -> tuple[list[Entry], list[str]]:
    """Return the removed folders, and those that failed with the reason. A folder in use is kept without an error."""
    removed, failed = [], []
    for entry in chosen:
        try:
            if remove(store, entry):
                removed.append(entry)
            else:
                say(f"{entry.name} is kept: a command uses it")
        except OSError as error:
            failed.append(f"{entry.name} ({error.strerror})")
    return removed, failed


def read_time(value: str) -> float:
    """Return the seconds of a time such as 30d, 12h or 90m.

    Raises:
        InputError: it is not such a time.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([dhm])", value)
    if not match:
        raise InputError(f"--older-than is {value!r}: wanted days, hours or minutes, such as 30d, 12h, 90m")
    return float(match[1]) * UNITS[match[2]]


def table(entries: list[Entry]) -> list[str]:
    """Return one line for each entry: name, id, size, age, last use, and the folders derived from it."""
    lines = []
    for entry in entries:
        state = "in use" if entry.in_use else entry.kind if entry.kind != "finished" else ""
        needed = f"for {', '.join(entry.needed_by)}" if entry.needed_by else ""
        times = f"age {duration(entry.age):>8}  unused {duration(entry.unused):>8}"
        parts = (f"{entry.name:<32}", entry.id or "-" * 12, f"{size(entry.bytes):>9}", times, state, needed)
        lines.append("  ".join(part for part in parts if part))
    return lines


def _summary(store: Path, entries: list[Entry]) -> dict[str, Any]:
    return {
        "store": str(store), "bytes": sum(entry.bytes for entry in entries),
        "entries": [entry.model_dump() for entry in entries],
    }  # fmt: skip
