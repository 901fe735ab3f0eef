"""List the folders of a store, and remove those that no running command uses (`prunella store list` and `clean`)."""

import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from models.errors import FolderError
from models.schema import Record
from models.store.atomic import rename_folder
from models.store.folder import MANIFEST, Manifest, ModelFolder
from models.store.leftovers import DAY, STAGE_FOLDER, Extent, remove_leftover, target_of
from models.store.lock import Lock, is_held

Kind = Literal["finished", "damaged", "unfinished", "report"]
REPORT_NAME = re.compile(r"(report|family)-(?P<id>[0-9a-f]{12})|judged-(?P<of>[0-9a-f]{12})(-[0-9a-f]{12})?\.json")


class Entry(Record):
    """One folder or report of a store. Times are in seconds."""

    name: str
    kind: Kind  # unfinished: a leftover of a killed run, or the work of a running one
    stage: str
    id: str | None  # id of a finished folder, or of the bundle that a report is about
    bytes: int  # of all its files
    age: float  # since its oldest file was written
    unused: float  # since a command last created, reused or changed it
    needed_by: tuple[str, ...] = ()  # names of the folders that were created from it; they remain valid without it
    in_use: bool = False  # whether a running command has it open or writes to it


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries `clean` removes.

    unused: finished folders and reports that no command has used for this number of seconds; None: none of them.
    leftovers: unfinished folders of runs that were killed more than a day ago.
    everything: all entries that are not in use.
    """

    unused: float | None = None
    leftovers: bool = False
    everything: bool = False


def list_store(store: Path) -> list[Entry]:
    """Return the entries of the store, the largest first; files that Prunella did not write are ignored.

    Raises:
        FolderError: there is no such folder.
    """
    if not store.is_dir():
        raise FolderError(f"{store} is not a folder: there is no store yet, or --store names another folder")
    candidates = [path for path in store.iterdir() if not path.is_symlink()]
    paths = [path for path in candidates if path.is_dir() or REPORT_NAME.fullmatch(path.name)]
    manifests = {path.name: _read_manifest(path) for path in paths if _is_stage(path)}
    entries = [entry for path in paths if (entry := _entry(path, manifests)) is not None]
    return sorted(entries, key=lambda entry: (-entry.bytes, entry.name))


def select(entries: Iterable[Entry], selection: Selection) -> list[Entry]:
    """Return the entries to remove; entries in use are never among them."""
    return [entry for entry in entries if not entry.in_use and _is_selected(entry, selection)]


def remove(store: Path, entry: Entry) -> bool:
    """Remove an entry; return False if it was kept because a command has started to use it in the meantime.

    Raises:
        OSError: it cannot be removed.
    """
    path = store / entry.name
    if entry.kind == "unfinished":
        return remove_leftover(path)
    if entry.kind == "report":
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        return True
    return remove_finished(path)


def remove_finished(path: Path) -> bool:
    """Remove a finished folder; return False if it was kept because a command uses it.

    Raises:
        OSError: it cannot be removed.
    """
    lock, doomed = Lock(path), path.with_name(f".{path.name}.removed")
    if not lock.try_acquire():
        return False
    try:
        if is_held(path / MANIFEST):
            return False
        shutil.rmtree(doomed, ignore_errors=True)
        rename_folder(path, doomed)  # atomic: no other process sees a partially removed folder
        shutil.rmtree(doomed)
    finally:
        lock.release()
    return True


def find_damaged(store: Path, entries: Iterable[Entry]) -> dict[str, str]:
    """Check every file of the finished folders; return the error of each damaged folder, by the folder's name."""
    damaged = {}
    for entry in entries:
        if entry.kind in ("finished", "damaged"):
            try:
                ModelFolder.open(store / entry.name)
            except FolderError as error:
                damaged[entry.name] = str(error)
    return damaged


def _is_selected(entry: Entry, selection: Selection) -> bool:
    if selection.everything:
        return True
    if entry.kind == "unfinished":
        return selection.leftovers and entry.unused >= DAY
    return selection.unused is not None and entry.unused >= selection.unused


def _entry(path: Path, manifests: dict[str, Manifest | None]) -> Entry | None:
    """Return the entry of a path, or None if Prunella did not create it."""
    extent, now = Extent.of(path), time.time()
    common: dict[str, Any] = {
        "name": path.name, "bytes": extent.bytes, "age": max(0.0, now - extent.first),
        "unused": max(0.0, now - extent.last),
    }  # fmt: skip
    if (target := target_of(path)) is not None:
        stage = target.name.rsplit("-", 1)[0]
        return Entry(**common, kind="unfinished", stage=stage, id=None, in_use=_is_locked(target))
    if match := REPORT_NAME.fullmatch(path.name):
        return Entry(**common, kind="report", stage=path.name.split("-")[0], id=match["id"] or match["of"])
    if path.name not in manifests:
        return None
    manifest = manifests[path.name]
    common |= {"stage": path.name.rsplit("-", 1)[0], "in_use": _is_locked(path) or is_held(path / MANIFEST)}
    if manifest is None:
        return Entry(**common, kind="damaged", id=None)
    needed_by = _needed_by(path.name, manifests)
    return Entry(**common, kind="finished", id=manifest.content_id(), needed_by=needed_by)


def _needed_by(name: str, manifests: dict[str, Manifest | None]) -> tuple[str, ...]:
    """Return the names of the folders whose last stage read this folder directly."""
    own = manifests[name]
    assert own is not None
    ids = {own.content_id(), name.rsplit("-", 1)[1]}  # the second one is used in lineages of format 1
    others = {other: manifest for other, manifest in manifests.items() if manifest is not None and other != name}
    return tuple(sorted(other for other, m in others.items() if m.lineage and ids & set(m.lineage[-1].parents)))


def _is_stage(path: Path) -> bool:
    return bool(re.fullmatch(STAGE_FOLDER, path.name)) and not REPORT_NAME.fullmatch(path.name)


def _read_manifest(path: Path) -> Manifest | None:
    try:
        return Manifest.read(path / MANIFEST)
    except FolderError:
        return None


def _is_locked(target: Path) -> bool:
    lock = Lock(target)
    if not lock.path.exists():
        return False
    if not lock.try_acquire():
        return True
    lock.release()
    return False
