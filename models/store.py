"""What a store holds, and what of it can be removed without taking anything from a running command."""

import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from models.atomic import rename_folder
from models.errors import FolderError
from models.folder import MANIFEST, Manifest, ModelFolder
from models.leftovers import DAY, STAGE_FOLDER, Extent, remove_leftover, target_of
from models.lock import Lock, is_held
from models.record import Record

Kind = Literal["finished", "damaged", "unfinished", "report"]
REPORT_NAME = re.compile(r"(report|family)-(?P<id>[0-9a-f]{12})|judged-(?P<of>[0-9a-f]{12})\.json")


class Entry(Record):
    """One folder of a store. Sizes are bytes of all its files, times are seconds."""

    name: str
    kind: Kind  # unfinished: what a run that was killed left, or what a running one works on
    stage: str
    id: str | None  # of a finished folder, and of the bundle that a report is about
    bytes: int
    age: float  # since the first of its files was written
    unused: float  # since a command last made, reused or changed it
    needed_by: tuple[str, ...] = ()  # names of the folders that were made of it; they stay whole without it
    in_use: bool = False  # a running command has it open, or works on it


@dataclass(frozen=True, slots=True)
class Selection:
    """What `clean` is asked to remove.

    unused: finished folders and reports that no command has used for so many seconds; None: none for that reason.
    leftovers: what runs that were killed more than a day ago have left.
    everything: all that is not in use.
    """

    unused: float | None = None
    leftovers: bool = False
    everything: bool = False


def list_store(store: Path) -> list[Entry]:
    """Return what the store holds, the largest first; what Prunella did not write there is passed over.

    Raises:
        FolderError: there is no such folder.
    """
    if not store.is_dir():
        raise FolderError(f"{store} is not a folder: there is no store yet, or --store is another one")
    everything = [path for path in store.iterdir() if not path.is_symlink()]
    paths = [path for path in everything if path.is_dir() or REPORT_NAME.fullmatch(path.name)]
    manifests = {path.name: _read_manifest(path) for path in paths if _is_stage(path)}
    entries = [entry for path in paths if (entry := _entry(path, manifests)) is not None]
    return sorted(entries, key=lambda entry: (-entry.bytes, entry.name))


def select(entries: Iterable[Entry], selection: Selection) -> list[Entry]:
    """Return the entries to remove; none that is in use."""
    return [entry for entry in entries if not entry.in_use and _is_selected(entry, selection)]


def remove(store: Path, entry: Entry) -> bool:
    """Remove a folder; return whether it is gone: not where a command has begun to use it meanwhile.

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
    """Remove a finished folder; return whether it is gone: not where a command uses it.

    Raises:
        OSError: it cannot be removed.
    """
    lock, gone = Lock(path), path.with_name(f".{path.name}.removed")
    if not lock.try_acquire():
        return False
    try:
        if is_held(path / MANIFEST):
            return False
        shutil.rmtree(gone, ignore_errors=True)
        rename_folder(path, gone)  # at once: nobody finds half of it
        shutil.rmtree(gone)
    finally:
        lock.release()
    return True


def find_damaged(store: Path, entries: Iterable[Entry]) -> dict[str, str]:
    """Read every file of the finished folders; return what is wrong, by the names of the folders that are altered."""
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
    """Return what a folder is, or None: Prunella did not make it."""
    extent, now = Extent.of(path), time.time()
    common: dict[str, Any] = {
        "name": path.name, "bytes": extent.bytes, "age": max(0.0, now - extent.first),
        "unused": max(0.0, now - extent.last),
    }  # fmt: skip
    if (target := target_of(path)) is not None:
        stage = target.name.rsplit("-", 1)[0]
        return Entry(**common, kind="unfinished", stage=stage, id=None, in_use=_is_locked(target))
    if found := REPORT_NAME.fullmatch(path.name):
        return Entry(**common, kind="report", stage=path.name.split("-")[0], id=found["id"] or found["of"])
    if path.name not in manifests:
        return None
    manifest = manifests[path.name]
    common |= {"stage": path.name.rsplit("-", 1)[0], "in_use": _is_locked(path) or is_held(path / MANIFEST)}
    if manifest is None:
        return Entry(**common, kind="damaged", id=None)
    needed_by = _needed_by(path.name, manifests)
    return Entry(**common, kind="finished", id=manifest.content_id(), needed_by=needed_by)


def _needed_by(name: str, manifests: dict[str, Manifest | None]) -> tuple[str, ...]:
    """Return the folders whose last step read this one, directly."""
    own = manifests[name]
    assert own is not None
    ids = {own.content_id(), name.rsplit("-", 1)[1]}  # the second: in lineages of format 1
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
