"""copy_folder(): a finished folder → --out. What a running server has open or mapped there is never written to."""

import os
import shutil
from pathlib import Path

from models.atomic import copy_file, rename_folder, sync_tree
from models.errors import CheckError, FolderError
from models.folder import MANIFEST, MUTABLE, ModelFolder
from models.lock import Lock


def check_target(target: Path) -> None:
    """Refuse, before any long work, a folder where no finished folder can be put.

    Raises:
        FolderError: something else is there, or nothing can be written there.
    """
    if target.is_symlink() and not target.exists():
        raise FolderError(f"{target} is a symbolic link to {os.readlink(target)}, which does not exist: remove it")
    if target.exists():
        if not (target / MANIFEST).is_file():
            raise FolderError(f"{target} exists and is no finished folder: choose another --out")
        return
    parent = next(path for path in target.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise FolderError(f"{target} cannot be made: {parent} is no folder that can be written; choose another --out")


def copy_folder(source: ModelFolder, target: Path) -> ModelFolder:
    """Copy a finished folder to `target`: it is there whole, or not at all.

    Where `target` holds the same files already, only the measurements are replaced, each by a rename. The model's
    files stay the ones that they are. A symbolic link is followed.

    Raises:
        FolderError: `target` holds something else, or cannot be written.
        CheckError: the disk is full; the finished folder stays in the store.
    """
    check_target(target)
    place = target.resolve()
    if place == source.path.resolve():
        return source
    try:
        with Lock(place):
            if place.exists():
                _renew_measurements(source, place)
            else:
                _copy_whole(source, place)
    except OSError as error:
        raise CheckError(
            f"cannot write {target} ({error.strerror or error}): the result is kept in {source.path}; make room, or "
            "give another --out"
        ) from None
    return ModelFolder.open(target)


def _renew_measurements(source: ModelFolder, target: Path) -> None:
    try:
        there = ModelFolder.open(target)
    except FolderError as error:
        raise FolderError(f"{target} exists and is not whole: {error}; or choose another --out") from None
    if there.id != source.id:
        raise FolderError(
            f"{target} exists and is not this result ({there.id} is there, this is {source.id}): choose another --out"
        )
    for name in sorted(MUTABLE - {MANIFEST}):
        for path in sorted(p for p in _files_of(source.path / name) if p.is_file()):
            place = target / path.relative_to(source.path)
            place.parent.mkdir(parents=True, exist_ok=True)
            copy_file(path, place)


def _files_of(path: Path) -> list[Path]:
    return list(path.rglob("*")) if path.is_dir() else [path]


def _copy_whole(source: ModelFolder, target: Path) -> None:
    """Copy beside the target, on its file system, check each hash there, and rename."""
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
