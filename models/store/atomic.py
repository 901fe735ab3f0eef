"""Atomic and durable writes: after a crash or a power cut, a file or folder is either complete or as it was before.

A new name is durable only after the folder that contains it is synced as well (man 2 fsync).
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_text(path: Path, content: str) -> None:
    """Write `content` to a temporary file beside `path`, and rename it to `path`: readers never see a partial file.

    Raises:
        OSError: the file cannot be written; a previous file is unchanged.
    """
    _replace(path, lambda name: Path(name).write_text(content, encoding="utf-8"))


def copy_file(source: Path, target: Path) -> None:
    """Copy a file to a temporary file beside `target`, and rename it to `target`.

    A process that has the old file open or memory-mapped keeps the old content.

    Raises:
        OSError: the file cannot be written; a previous file is unchanged.
    """
    _replace(target, lambda name: shutil.copyfile(source, name))


def sync_tree(folder: Path) -> None:
    """Sync `folder`, and each file and folder under it, to the disk; symbolic links are skipped."""
    for path in (*folder.rglob("*"), folder):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            continue
        sync(path)


def rename_folder(source: Path, target: Path) -> None:
    """Rename a folder within its parent and sync the parent; `target` must not exist."""
    source.rename(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Sync a file, or the entries of a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace(path: Path, write: Callable[[str], object]) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        write(name)
        sync(Path(name))
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync(path.parent)
