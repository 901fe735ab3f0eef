"""run_stage(): run a stage once for given inputs and settings; later calls reuse its folder in the store.

The store finds a folder by its key: a hash of the contents of its inputs (`Manifest.digest`), the name and version of
the stage, and its configuration. Two models that the same settings gave on two machines have different contents, so
each has its own results. The id of a folder is a hash of its own contents (`ModelFolder.id`).

A repeated command reuses its finished stages. A killed stage leaves a folder `<name>.partial`, which the next
run removes. A lock prevents two commands from creating one folder at the same time: the second one waits, and reuses
the folder of the first.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.distributed import by_main, rank, wait_for_everyone, world_size
from models.errors import CheckError, InputError, PrunellaError
from models.messages import detail, say
from models.store.atomic import rename_folder, sync_tree
from models.store.folder import MANIFEST, Manifest, ModelFolder, Step, identity, record_files
from models.store.leftovers import remove_leftovers
from models.store.lock import Lock

CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # reported to the user as a CheckError


@dataclass(frozen=True, slots=True)
class StageResult:
    """A finished folder, and whether it existed before."""

    folder: ModelFolder
    reused: bool


@dataclass(frozen=True, slots=True)
class Stage:
    """Identifies a stage: name, version of its code, and the settings that decide its result."""

    name: str
    version: int
    config: dict[str, Any]

    def key(self, parents: Sequence[ModelFolder]) -> str:
        """Return the key of the folder that the stage creates from these inputs: 12 hex digits."""
        return identity([p.manifest.digest() for p in parents], self.name, self.version, self.config)


def run_stage(
    stage: Stage, parents: Sequence[ModelFolder], store: Path, make: Callable[[Path], None], together: bool = False
) -> StageResult:
    """Return the folder of a stage; `make` is called to fill it only if the folder does not exist yet.

    Args:
        stage: name, version and configuration; together with the contents of the parents they give the folder's key.
        parents: the folders that `make` reads; the new lineage continues that of the first one.
        store: folder that contains the folders of all stages, as `<name>-<key>`.
        make: fills the empty folder that it is given; it never writes elsewhere.
        together: True: every process calls `make`, as distributed training needs; False: only the main process calls
            it, and the others wait.

    Raises:
        FolderError: the folder in the store was altered, or the store cannot be written.
        InputError: one of several processes has other inputs or settings.
        CheckError: the disk is full.
    """
    key = stage.key(parents)
    # without this check, processes with different keys would create different folders and wait for each other forever
    if (main_key := by_main(lambda: key)) != key:
        raise InputError(
            f"the processes do not agree on the inputs and settings of '{stage.name}': {stage.name}-{main_key} in "
            f"the main process, {stage.name}-{key} here. They need the same files, versions, flags and kind of device"
        )
    target = Path(store) / f"{stage.name}-{key}"
    work = _Work(stage, key, parents, target, make)
    reused = _make_together(work) if together and world_size() > 1 else by_main(lambda: _make_alone(work))
    detail(f"{stage.name}: {target} is {'reused' if reused else 'new'}")
    return StageResult(ModelFolder.open(target, quick=True), reused)


def scratch_folder(target: Path) -> Path:
    """Return the folder beside `target` for resumable work; it survives a kill and is removed when the stage ends."""
    return target.with_name(target.name.split(".")[0] + ".scratch")


@dataclass(frozen=True, slots=True)
class _Work:
    stage: Stage
    key: str
    parents: Sequence[ModelFolder]
    target: Path
    make: Callable[[Path], None]


def _make_alone(work: _Work) -> bool:
    """Create the folder in this process if it does not exist; return whether it existed."""
    if _is_finished(work.target):
        return True
    with Lock(work.target):
        if _is_finished(work.target):  # another command created it while this one waited
            return True
        _fill(work)
        shutil.rmtree(scratch_folder(work.target), ignore_errors=True)
    return False


def _make_together(work: _Work) -> bool:
    """Create the folder in all processes; the main one acquires the lock, and the others wait without a limit."""
    with ExitStack() as locks:

        def lock_target() -> bool:
            if _is_finished(work.target):
                return True
            locks.enter_context(Lock(work.target))
            return _is_finished(work.target)

        if by_main(lock_target):
            return True
        if rank():
            _fill_discarded(work)
        else:
            _fill(work)
        wait_for_everyone()  # other processes may still read the scratch folder
        if not rank():
            shutil.rmtree(scratch_folder(work.target), ignore_errors=True)
    return False


def _is_finished(target: Path) -> bool:
    """Return whether the folder exists, and update its time of use, which `store clean --older-than` reads."""
    manifest = target / MANIFEST
    if not manifest.is_file():
        return False
    if os.access(manifest, os.W_OK):
        os.utime(manifest)
    return True


def _fill(work: _Work) -> None:
    """Call `make` on an empty folder beside the target, write the manifest, and rename the folder to the target."""
    remove_leftovers(work.target.parent)
    partial, target = work.target.with_name(work.target.name + ".partial"), work.target
    shutil.rmtree(partial, ignore_errors=True)
    if target.exists():
        say(f"{target} is incomplete (it has no {MANIFEST}): it is created again")
        shutil.rmtree(target)
    with _cleanup(partial):
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


def _fill_discarded(work: _Work) -> None:
    """Call `make` in a process other than the main one, on a folder that is removed afterwards."""
    own = work.target.with_name(f"{work.target.name}.rank{rank()}.partial")
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True)
    try:
        work.make(own)
    finally:
        shutil.rmtree(own)


@contextmanager
def _cleanup(partial: Path) -> Iterator[None]:
    """Remove the folder of a stage that fails with OSError or PrunellaError; report a full disk as a CheckError."""
    try:
        yield
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if error.errno not in CANNOT_WRITE:
            raise
        raise CheckError(
            f"cannot write {partial} ({error.strerror}): make room (`prunella store list` shows what is in the "
            "store) and run the same command again; finished stages are kept"
        ) from None
    except PrunellaError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
