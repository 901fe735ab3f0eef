"""run_stage(): the same input and the same configuration give the same folder, made once, by one process or by all.

Resume is free: a stage that finished is opened, one that was killed leaves only `<name>.partial`, which the next
run removes. A lock keeps two processes from making the same folder at once.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.distributed import by_main, rank, wait_for_everyone, world_size
from models.errors import FolderError
from models.folder import MANIFEST, Manifest, ModelFolder, Step, identity, record_files


@dataclass(frozen=True, slots=True)
class Made:
    """A finished folder, and whether it was there already."""

    folder: ModelFolder
    reused: bool


@dataclass(frozen=True, slots=True)
class Stage:
    """What identifies a piece of work: its name, its version and the settings that decide its result."""

    name: str
    version: int
    config: dict[str, Any]


def run_stage(
    stage: Stage, parents: Sequence[ModelFolder], store: Path, make: Callable[[Path], None], together: bool = False
) -> Made:
    """Return the folder that `make` fills, calling it only when the folder is not there yet.

    Args:
        stage: name, version and configuration; with the parents' contents they are the folder's identity.
        parents: the folders that `make` reads; the first one's lineage is carried on.
        store: where folders are kept, as `<name>-<id>`.
        make: fills the empty folder that it is given; it never writes elsewhere.
        together: whether every process calls `make`, as training wants; else the main one does, and the others wait.
    """
    folder_id = identity([p.manifest.digest() for p in parents], stage.name, stage.version, stage.config)
    target = Path(store) / f"{stage.name}-{folder_id}"
    if by_main((target / MANIFEST).is_file):  # one looks for all: another command may make it meanwhile
        return Made(ModelFolder.open(target), reused=True)
    if not together:
        reused = by_main(lambda: _make(stage, parents, target, make))
        return Made(ModelFolder.open(target), reused)
    reused = _help(target, make) if rank() else _make(stage, parents, target, make)
    return Made(ModelFolder.open(target), reused)


def _make(stage: Stage, parents: Sequence[ModelFolder], target: Path, make: Callable[[Path], None]) -> bool:
    """Make the folder, and return whether another command did while this one waited for it."""
    with _only_one(target):
        if (target / MANIFEST).is_file() and world_size() == 1:
            return True
        partial = target.with_name(target.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        make(partial)
        step = Step(
            stage=stage.name, version=stage.version, config=stage.config, parents=tuple(p.id for p in parents)
        )
        lineage = (*(parents[0].manifest.lineage if parents else ()), step)
        folder_id = target.name.removeprefix(f"{stage.name}-")
        Manifest(id=folder_id, lineage=lineage, files=record_files(partial)).write(partial / MANIFEST)
        _flush(partial)
        partial.rename(target)
        wait_for_everyone()  # others may still read the scratch folder
        shutil.rmtree(scratch_folder(partial), ignore_errors=True)
    return False


def scratch_folder(target: Path) -> Path:
    """Return the folder beside `target` that survives a kill; it goes when the stage has finished."""
    return target.with_name(target.name.split(".")[0] + ".scratch")


def _help(target: Path, make: Callable[[Path], None]) -> bool:
    """Take part in the work of the process with rank 0; what this one writes is thrown away."""
    own = target.with_name(f"{target.name}.rank{rank()}.partial")
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True)
    try:
        make(own)
    finally:
        shutil.rmtree(own)
    wait_for_everyone()
    return False


def copy_folder(source: ModelFolder, target: Path) -> ModelFolder:
    """Copy a finished folder to `target`, atomically.

    Raises:
        FolderError: `target` holds something else.
    """
    if target.exists():
        if (target / MANIFEST).is_file() and ModelFolder.open(target).id == source.id:
            shutil.copytree(source.path, target, dirs_exist_ok=True)  # newer measurements come along
            return ModelFolder.open(target)
        raise FolderError(f"{target} exists and is not this result ({source.id}): choose another --out")
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source.path, partial)
    partial.rename(target)
    return ModelFolder.open(target)


@contextmanager
def _only_one(target: Path) -> Iterator[None]:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("w") as file:  # stays: removing it would race with a waiter
        fcntl.flock(file, fcntl.LOCK_EX)  # released by the kernel when the process ends, however it ends
        yield


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
