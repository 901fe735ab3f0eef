"""ModelFolder: a complete, unaltered folder on disk, or an error that says what is missing."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from models.errors import FolderError
from models.lock import Hold
from models.record import Record

ID_DIGITS = 12
QUICK_BYTES = 2**30
AGAIN = "remove the folder and make it again"
MANIFEST = "manifest.json"
REPORT = "report.json"
LOG, PLOT, EVENTS = "log.jsonl", "training.svg", "tensorboard"
# measurements are not identity: they have times in them
MUTABLE = frozenset({MANIFEST, REPORT, "report.md", "report.html", LOG, PLOT, EVENTS})


class Step(Record):
    """One stage of a lineage: what was done, with which settings, by which version of the stage."""

    stage: str
    version: int
    config: dict[str, Any]
    parents: tuple[str, ...] = ()


class FileEntry(Record):
    """A file of the folder as it was when the stage finished."""

    bytes: int
    sha256: str
    mtime_ns: int | None = None  # of a file of QUICK_BYTES or more: a copy in the same store keeps it


class Manifest(Record):
    """What a folder is: its identity, how it came to be, and the files it must hold.

    id: `content_id()`, written for readers of the file. In format 1 it was a hash of the recipe, and so was the name
        of the folder in the store: `key` is empty there.
    key: hash of the recipe, see `models.stage`: where the store looks for the folder.
    """

    format: Literal[1, 2] = 2
    id: str
    key: str = ""
    lineage: tuple[Step, ...]
    files: dict[str, FileEntry]

    def digest(self) -> str:
        """Return the SHA-256 over names and hashes of the files, in hexadecimal: two equal ones are one model."""
        hashes = json.dumps({name: entry.sha256 for name, entry in self.files.items()}, sort_keys=True)
        return hashlib.sha256(hashes.encode()).hexdigest()

    def content_id(self) -> str:
        """Return the first 12 digits of `digest()`, for people and file names."""
        return self.digest()[:ID_DIGITS]


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder whose manifest was read and whose files are all there, with the bytes that were written.

    While the object lives, `prunella store clean` does not remove the folder.
    """

    path: Path
    manifest: Manifest
    hold: Hold = field(default_factory=Hold, repr=False, compare=False)

    @property
    def id(self) -> str:
        """Identity: a hash of the files' contents. The report and the logs may change and are not in it."""
        return self.manifest.content_id()

    @classmethod
    def open(cls, path: Path, quick: bool = False) -> "ModelFolder":
        """Open a finished folder and check its files.

        Args:
            path: the folder.
            quick: whether a file of QUICK_BYTES or more counts as unaltered when size and time of change are those
                that were recorded. For intermediate results in a store: a teacher's answers have tens of GB.

        Raises:
            FolderError: there is no manifest, or a file is missing or altered.
        """
        path = Path(path)
        if not path.is_dir():
            raise FolderError(f"{path} is not a folder: wanted a model folder made by prunella")
        try:
            hold = Hold(path / MANIFEST)
        except FileNotFoundError:
            raise FolderError(
                f"{path} has no {MANIFEST}: the stage that makes it has not finished; run it again"
            ) from None
        manifest = Manifest.read(path / MANIFEST)
        for name, entry in manifest.files.items():
            _check_file(path / name, entry, quick)
        return cls(path, manifest, hold)


def identity(parents: Iterable[str], stage: str, version: int, config: dict[str, Any]) -> str:
    """Return 12 hex digits of a SHA-256 over all that decides the result of a stage.

    Args:
        parents: contents of what the stage reads: `Manifest.digest()`, or ids.
        stage: name of the stage.
        version: of the stage's code.
        config: settings that decide the result; where the device, the precision or the version of a library does,
            they belong in here.
    """
    payload = json.dumps([list(parents), stage, version, config], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(payload.encode()).hexdigest()[:ID_DIGITS]


def find_folder(stores: Iterable[Path], stage: str, folder_id: str) -> Path | None:
    """Return the folder that a stage made and whose id stands in a lineage, or None.

    In lineages of format 1 the id is the one in the folder's name.
    """
    for store in stores:
        for manifest in sorted(Path(store).glob(f"{stage}-*/{MANIFEST}")):
            if manifest.parent.name == f"{stage}-{folder_id}" or Manifest.read(manifest).content_id() == folder_id:
                return manifest.parent
    return None


def record_files(path: Path) -> dict[str, FileEntry]:
    """Return size and hash of each file under `path`, except those that may change later."""
    files = sorted(p for p in path.rglob("*") if p.is_file())
    names = {str(p.relative_to(path)): p for p in files}
    return {name: _entry_of(p) for name, p in names.items() if name.split("/")[0] not in MUTABLE}


def _entry_of(path: Path) -> FileEntry:
    status = path.stat()
    mtime = status.st_mtime_ns if status.st_size >= QUICK_BYTES else None
    return FileEntry(bytes=status.st_size, sha256=sha256_of(path), mtime_ns=mtime)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_file(path: Path, entry: FileEntry, quick: bool) -> None:
    if not path.is_file():
        raise FolderError(f"{path} is missing: the manifest beside it lists it; {AGAIN}")
    status = path.stat()
    if quick and entry.mtime_ns is not None and (status.st_size, status.st_mtime_ns) == (entry.bytes, entry.mtime_ns):
        return
    if status.st_size != entry.bytes or sha256_of(path) != entry.sha256:
        raise FolderError(
            f"{path} was altered: {status.st_size} bytes found, {entry.bytes} with another hash were written; {AGAIN}"
        )
