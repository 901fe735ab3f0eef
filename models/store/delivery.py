"""copy_folder(): copy a finished folder to --out.

Files that a running server may have open or memory-mapped are replaced by a rename, never overwritten in place.
"""

import os
import shutil
from pathlib import Path

from models.errors import CheckError, FolderError
from models.store.atomic import copy_file, rename_folder, sync_tree
from models.store.folder import MANIFEST, MUTABLE, ModelFolder
from models.store.lock import Lock


def check_target(target: Path) -> None:
    """Check, before any long work, that a finished folder can be copied to `target`.

    Raises:
        FolderError: something else exists there, or nothing can be written there.
    """
    if target.is_symlink() and not target.exists():
        raise FolderError(f"{target} is a symbolic link to {os.readlink(target)}, which does not exist: remove it")
    if target.exists():
        if not (target / MANIFEST).is_file():
            raise FolderError(f"{target} exists and is not a finished folder: choose another --out")
        return
    parent = next(path for path in target.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise FolderError(f"{target} cannot be created: {parent} is not a writable folder; choose another --out")


def copy_folder(source: ModelFolder, target: Path) -> ModelFolder:
    """Copy a finished folder to `target`, which afterwards is complete or does not exist.

    If `target` already holds the same model, only the measurements (report and logs) are replaced, each by a rename,
    and the files of the model are not touched. A symbolic link is followed.

    Raises:
        FolderError: `target` holds something else, or cannot be written.
        CheckError: the disk is full; the finished folder stays in the store.
    """
    check_target(target)
    resolved = target.resolve()
    if resolved == source.path.resolve():
        return source
    try:
        with Lock(resolved):
            if resolved.exists():
                _update_measurements(source, resolved)
            else:
                _copy_whole(source, resolved)
    except OSError as error:
        raise CheckError(
            f"cannot write {target} ({error.strerror or error}): the result is kept in {source.path}; make room, or "
            "give another --out"
        ) from None
    return ModelFolder.open(target)


def _update_measurements(source: ModelFolder, target: Path) -> None:
    try:
        existing = ModelFolder.open(target)
    except FolderError as error:
        raise FolderError(f"{target} exists and is not whole: {error}; or choose another --out") from None
    if existing.id != source.id:
        raise FolderError(
            f"{target} exists and is not this result (its id is {existing.id}, the id of the result is {source.id}): "
            "choose another --out"
        )
    for name in sorted(MUTABLE - {MANIFEST}):
        for path in sorted(p for p in _files_of(source.path / name) if p.is_file()):
            copy = target / path.relative_to(source.path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy_file(path, copy)


def _files_of(path: Path) -> list[Path]:
    return list(path.rglob("*")) if path.is_dir() else [path]


def _copy_whole(source: ModelFolder, target: Path) -> None:
    """Copy to a folder beside the target (on the same file system), check every hash there, and rename it."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copytree(source.path, partial)
        sync_tree(partial)
        ModelFolder.open(partial)
        rename_folder(partial, target)
    except shutil.Error as error:  # copytree collects the errors of all files
        raise OSError(str(error.args[0][0][2])) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
