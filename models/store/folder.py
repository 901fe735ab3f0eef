"""ModelFolder: a finished folder on disk, whose files are checked against its manifest when it is opened."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from models.errors import FolderError
from models.schema import Record
from models.store.lock import Hold

ID_DIGITS = 12
QUICK_BYTES = 2**30  # from this size on, a quick check compares size and modification time instead of the hash
ADVICE = "remove the folder and create it again"
MANIFEST = "manifest.json"
REPORT = "report.json"
LOG, PLOT, EVENTS = "log.jsonl", "training.svg", "tensorboard"
# not part of the folder's identity: measurements contain times, and differ between runs
MUTABLE = frozenset({MANIFEST, REPORT, "report.md", "report.html", LOG, PLOT, EVENTS})


class Step(Record):
    """One stage of a lineage: its name, the version of its code, its settings and the ids of its inputs."""

    stage: str
    version: int
    config: dict[str, Any]
    parents: tuple[str, ...] = ()


class FileEntry(Record):
    """Size and hash of a file when the stage finished."""

    bytes: int
    sha256: str
    mtime_ns: int | None = None  # only for files of QUICK_BYTES or more; a copy in the same store preserves it


class Manifest(Record):
    """Identity of a folder, the stages that created it, and the files that it must contain.

    id: `content_id()`, written for readers of the file. In format 1 it was a hash of the inputs and settings, which
        was also in the name of the folder in the store, and `key` is empty.
    key: hash of the inputs and settings, by which the store finds the folder; see `models.store.stage`.
    """

    format: Literal[1, 2] = 2
    id: str
    key: str = ""
    lineage: tuple[Step, ...]
    files: dict[str, FileEntry]

    def digest(self) -> str:
        """Return the SHA-256 over names and hashes of the files, in hexadecimal; equal digests mean equal models."""
        hashes = json.dumps({name: entry.sha256 for name, entry in self.files.items()}, sort_keys=True)
        return hashlib.sha256(hashes.encode()).hexdigest()

    def content_id(self) -> str:
        """Return the first 12 digits of `digest()`, for messages and file names."""
        return self.digest()[:ID_DIGITS]


def refuse_missing(folder: Path, wanted: str = "a folder of a model") -> None:
    """Raise a FolderError if there is no such folder."""
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "does not exist"
        raise FolderError(f"{folder} {what}: wanted {wanted}")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder whose files were checked: all files of the manifest exist and are unchanged.

    While the object exists, `prunella store clean` does not remove the folder.
    """

    path: Path
    manifest: Manifest
    hold: Hold = field(default_factory=Hold, repr=False, compare=False)

    @property
    def id(self) -> str:
        """Hash of the contents of the files, without the report and the logs, which may change."""
        return self.manifest.content_id()

    @classmethod
    def open(cls, path: Path, quick: bool = False) -> "ModelFolder":
        """Open a finished folder and check its files.

        Args:
            path: the folder.
            quick: for files of QUICK_BYTES or more, compare size and modification time instead of the hash. For
                intermediate results in a store: the stored outputs of a teacher have tens of GB.

        Raises:
            FolderError: there is no manifest, or a file is missing or altered.
        """
        path = Path(path)
        refuse_missing(path, "a folder that prunella made")
        try:
            hold = Hold(path / MANIFEST)
        except FileNotFoundError:
            raise FolderError(
                f"{path} has no {MANIFEST}: it is no folder that prunella made, or the command that made it has not "
                "finished; then run it again"
            ) from None
        manifest = Manifest.read(path / MANIFEST)
        for name, entry in manifest.files.items():
            _check_file(path / name, entry, quick)
        return cls(path, manifest, hold)


def identity(parents: Iterable[str], stage: str, version: int, config: dict[str, Any]) -> str:
    """Return 12 hex digits of a SHA-256 over everything that decides the result of a stage.

    Args:
        parents: identifies the contents of the stage's inputs: `Manifest.digest()`, or ids.
        stage: name of the stage.
        version: version of the stage's code.
        config: settings that decide the result, including device, precision and library versions where the result
            depends on them.
    """
    payload = json.dumps([list(parents), stage, version, config], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(payload.encode()).hexdigest()[:ID_DIGITS]


def find_folder(stores: Iterable[Path], stage: str, folder_id: str) -> Path | None:
    """Return the folder of a stage by its id in a lineage, or None if no store has it.

    In lineages of format 1 this id is part of the folder's name.
    """
    for store in stores:
        for manifest in sorted(Path(store).glob(f"{stage}-*/{MANIFEST}")):
            if manifest.parent.name == f"{stage}-{folder_id}" or Manifest.read(manifest).content_id() == folder_id:
                return manifest.parent
    return None


def record_files(path: Path) -> dict[str, FileEntry]:
    """Return size and hash of each file under `path`, except the files that may change later (MUTABLE)."""
    files = sorted(p for p in path.rglob("*") if p.is_file())
    names = {str(p.relative_to(path)): p for p in files}
    return {name: _entry_of(p) for name, p in names.items() if name.split("/")[0] not in MUTABLE}


def _entry_of(path: Path) -> FileEntry:
    status = path.stat()
    mtime = status.st_mtime_ns if status.st_size >= QUICK_BYTES else None
    return FileEntry(bytes=status.st_size, sha256=sha256_of(path), mtime_ns=mtime)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file; the file is read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_file(path: Path, entry: FileEntry, quick: bool) -> None:
    if not path.is_file():
        raise FolderError(f"{path} is missing, but the manifest lists it: {ADVICE}")
    status = path.stat()
    if quick and entry.mtime_ns is not None and (status.st_size, status.st_mtime_ns) == (entry.bytes, entry.mtime_ns):
        return
    if status.st_size != entry.bytes or sha256_of(path) != entry.sha256:
        raise FolderError(
            f"{path} was altered: it has {status.st_size} bytes, {entry.bytes} bytes with another hash were written; "
            f"{ADVICE}"
        )
