"""run_stage(): the same inputs and the same configuration give the same folder, made once, by one process or by all.

A folder is found by its key: a hash of the contents of its inputs (`Manifest.digest`), the stage, its version and its
configuration. Of two models that one recipe gave on two machines each has its own results. Its id is a hash of what
came out (`ModelFolder.id`).

Resume is free: a stage that finished is opened, one that was killed leaves only `<name>.partial`, which the next run
removes. A lock keeps two commands from making one folder at once: the second waits and takes what the first made.
"""

import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.atomic import rename_folder, sync_tree
from models.distributed import by_main, rank, wait_for_everyone, world_size
from models.errors import CheckError, InputError, PrunellaError
from models.folder import MANIFEST, Manifest, ModelFolder, Step, identity, record_files
from models.leftovers import remove_leftovers
from models.lock import Lock

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


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

    def key(self, parents: Sequence[ModelFolder]) -> str:
        """Return the key of the folder that the stage makes of these inputs: 12 hex digits."""
        return identity([p.manifest.digest() for p in parents], self.name, self.version, self.config)


def run_stage(
    stage: Stage, parents: Sequence[ModelFolder], store: Path, make: Callable[[Path], None], together: bool = False
) -> Made:
    """Return the folder that `make` fills, calling it only when the folder is not there yet.

    Args:
        stage: name, version and configuration; with the contents of the parents they are the folder's key.
        parents: the folders that `make` reads; the first one's lineage is carried on.
        store: where folders are kept, as `<name>-<key>`.
        make: fills the empty folder that it is given; it never writes elsewhere.
        together: whether every process calls `make`, as training wants; else the main one does, and the others wait.

    Raises:
        FolderError: the folder in the store was altered, or the store cannot be written.
        InputError: one of several processes has other inputs or settings.
        CheckError: the disk is full.
    """
    key = stage.key(parents)
    if (agreed := by_main(lambda: key)) != key:  # else the processes would work on two folders and wait for ever
        raise InputError(
            f"the processes do not agree on what '{stage.name}' is made of: {stage.name}-{agreed} in the main one, "
            f"{stage.name}-{key} here. They need the same files, versions, flags and kind of device"
        )
    target = Path(store) / f"{stage.name}-{key}"
    work = _Work(stage, key, parents, target, make)
    reused = _make_together(work) if together and world_size() > 1 else by_main(lambda: _make_alone(work))
    return Made(ModelFolder.open(target, quick=True), reused)


def scratch_folder(target: Path) -> Path:
    """Return the folder beside `target` that survives a kill; it goes when the stage has finished."""
    return target.with_name(target.name.split(".")[0] + ".scratch")


@dataclass(frozen=True, slots=True)
class _Work:
    stage: Stage
    key: str
    parents: Sequence[ModelFolder]
    target: Path
    make: Callable[[Path], None]


def _make_alone(work: _Work) -> bool:
    """Make the folder where it is not there, and return whether it was."""
    if _is_finished(work.target):
        return True
    with Lock(work.target):
        if _is_finished(work.target):  # another command made it while this one waited
            return True
        _fill(work)
        shutil.rmtree(scratch_folder(work.target), ignore_errors=True)
    return False


def _make_together(work: _Work) -> bool:
    """Make the folder in all processes; the main one has the lock, and the others wait for it without a limit."""
    with ExitStack() as locks:

        def begin() -> bool:
            if _is_finished(work.target):
                return True
            locks.enter_context(Lock(work.target))
            return _is_finished(work.target)

        if by_main(begin):
            return True
        if rank():
            _help(work)
        else:
            _fill(work)
        wait_for_everyone()  # others may still read the scratch folder
        if not rank():
            shutil.rmtree(scratch_folder(work.target), ignore_errors=True)
    return False


def _is_finished(target: Path) -> bool:
    """Return whether the folder is there, and note that it was used: `store clean --older-than` goes by that."""
    manifest = target / MANIFEST
    if not manifest.is_file():
        return False
    if os.access(manifest, os.W_OK):
        os.utime(manifest)
    return True


def _fill(work: _Work) -> None:
    """Call `make` on an empty folder beside the target, and give it the target's name when it is whole."""
    remove_leftovers(work.target.parent)
    partial, target = work.target.with_name(work.target.name + ".partial"), work.target
    shutil.rmtree(partial, ignore_errors=True)
    if target.exists():
        sys.stderr.write(f"prunella: {target} has no {MANIFEST}, a rest of something removed: it is made again\n")
        shutil.rmtree(target)
    with _full_disk_is_said(partial):
        partial.mkdir(parents=True)
        work.make(partial)
        parents = work.parents
        step = Step(
            stage=work.stage.name,
            version=work.stage.version,
            config=work.stage.config,
            parents=tuple(p.id for p in parents),
        )
        lineage = (*(parents[0].manifest.lineage if parents else ()), step)
        manifest = Manifest(id="", key=work.key, lineage=lineage, files=record_files(partial))
        manifest.model_copy(update={"id": manifest.content_id()}).write(partial / MANIFEST)
        sync_tree(partial)
        rename_folder(partial, target)


def _help(work: _Work) -> None:
    """Take part in the work of the process with rank 0; what this one writes is thrown away."""
    own = work.target.with_name(f"{work.target.name}.rank{rank()}.partial")
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True)
    try:
        work.make(own)
    finally:
        shutil.rmtree(own)


@contextmanager
def _full_disk_is_said(partial: Path) -> Iterator[None]:
    """Remove what a failed stage wrote; a full disk is an error for people."""
    try:
        yield
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if error.errno not in FULL:
            raise
        raise CheckError(
            f"cannot write {partial} ({error.strerror}): make room (`prunella store list` shows what is in the "
            "store) and give the same command again; the stages that finished are kept"
        ) from None
    except PrunellaError:
        shutil.rmtree(partial, ignore_errors=True)  # what was refused is not kept
        raise
