"""ModelFolder: a complete, unaltered folder on disk, or an error that says what is missing."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import FolderError
from models.record import Record

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


class Manifest(Record):
    """What a folder is: its identity, how it came to be, and the files it must hold."""

    format: int = 1
    id: str
    lineage: tuple[Step, ...]
    files: dict[str, FileEntry]

    def digest(self) -> str:
        """Return 8 hex digits over the files' hashes.

        Pruning chooses by measured times, so one recipe (one id) can give two models on two machines.
        """
        told = json.dumps({name: entry.sha256 for name, entry in self.files.items()}, sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder whose manifest was read and whose files are all there, with the bytes that were written."""

    path: Path
    manifest: Manifest

    @property
    def id(self) -> str:
        """Identity: a hash of the parents, the stage and its configuration."""
        return self.manifest.id

    @classmethod
    def open(cls, path: Path) -> "ModelFolder":
        """Open a finished folder and check each file's hash.

        Raises:
            FolderError: there is no manifest, or a file is missing or altered.
        """
        path = Path(path)
        if not path.is_dir():
            raise FolderError(f"{path} is not a folder: wanted a model folder made by prunella")
        if not (path / MANIFEST).is_file():
            raise FolderError(f"{path} has no {MANIFEST}: the stage that makes it has not finished; run it again")
        manifest = Manifest.read(path / MANIFEST)
        for name, entry in manifest.files.items():
            _check_file(path / name, entry)
        return cls(path, manifest)


def identity(parents: Iterable[str], stage: str, version: int, config: dict[str, Any]) -> str:
    """Return the id of the folder that a stage makes: 12 hex digits of a SHA-256 over all that decides it."""
    payload = json.dumps([list(parents), stage, version, config], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(payload.encode()).hexdigest()[:12]


def record_files(path: Path) -> dict[str, FileEntry]:
    """Return size and hash of each file under `path`, except those that may change later."""
    files = sorted(p for p in path.rglob("*") if p.is_file())
    names = {str(p.relative_to(path)): p for p in files}
    return {
        name: FileEntry(bytes=p.stat().st_size, sha256=sha256_of(p))
        for name, p in names.items()
        if name.split("/")[0] not in MUTABLE
    }


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_file(path: Path, entry: FileEntry) -> None:
    if not path.is_file():
        raise FolderError(f"{path} is missing: the manifest beside it lists it; make the folder again")
    size = path.stat().st_size
    if size != entry.bytes or sha256_of(path) != entry.sha256:
        raise FolderError(
            f"{path} was altered: {size} bytes found, {entry.bytes} with another hash were written; "
            "make the folder again"
        )
