"""Files and folders that are on the disk whole, or as they were before, also after a power cut.

A new name is durable only when the folder that holds it is synced as well (man 2 fsync).
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_text(path: Path, content: str) -> None:
    """Write `content` beside `path` and rename it over: no reader, and no crash, finds half a file.

    Raises:
        OSError: the file cannot be written; what was there before is unchanged.
    """
    _replace(path, lambda name: Path(name).write_text(content, encoding="utf-8"))


def copy_file(source: Path, target: Path) -> None:
    """Copy a file beside `target` and rename it over.

    A process that has the old file open, or mapped into its memory, keeps the old bytes.

    Raises:
        OSError: the file cannot be written; what was there before is unchanged.
    """
    _replace(target, lambda name: shutil.copyfile(source, name))


def sync_tree(folder: Path) -> None:
    """Write each file and each folder under `folder`, and itself, through to the disk."""
    for path in (*folder.rglob("*"), folder):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            continue
        sync(path)


def rename_folder(source: Path, target: Path) -> None:
    """Rename a folder within its parent and sync the parent; `target` does not exist."""
    source.rename(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Write a file, or the names in a folder, through to the disk."""
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
