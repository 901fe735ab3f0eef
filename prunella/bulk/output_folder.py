"""OutputFolder: the part files of a run, and the notes from which the same command goes on after it was killed.

_job.json            the options of the run: a run with others is refused
_manifest.jsonl      one line for each part that is complete, appended after the part has its name
part-00000-000000.…  the rows, in the order of the names: position of the input file, number of the chunk in it
_SUCCESS             written last

A part is written under another name, synced, renamed and then noted. A part that is not noted does not count: it is
made again and replaced. So each row is there exactly once, whenever the run was killed.
"""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from models.errors import CheckError, FolderError
from models.messages import WARNING, say
from models.schema import Record
from models.store.atomic import sync, write_text
from models.store.stage import CANNOT_WRITE
from prunella.bulk.input_files import InputFiles
from prunella.bulk.job import Chunk, Job, Part

JOB, MANIFEST, SUCCESS = "_job.json", "_manifest.jsonl", "_SUCCESS"
LOCK = "run"  # its file is .run.lock
TEMPORARY = ".tmp"
OURS = ("part-", ".part-", f".{JOB}.", f".{MANIFEST}.", f".{SUCCESS}.")  # beginnings of names that a run writes


class PartNote(Record):
    """A finished part, as the manifest has it."""

    part: str
    file: str  # name of the input file
    position: int  # of the input file
    number: int  # of the chunk in the file
    rows: int
    errors: int
    gated: int = 0  # notes of a run that an older version began lack it
    last: bool
    size: int  # bytes of the part
    input_size: int  # bytes of the input file
    input_modified_ns: int


class OutputFolder:
    """The output of a run; the caller has its lock."""

    def __init__(self, path: Path, job: Job, data: InputFiles) -> None:
        """Begin an output, or open one that was begun with the same options.

        Raises:
            FolderError: there is something else at `path`, or it was begun with other options or other files.
            CheckError: nothing can be written there.
        """
        self.path, self._job, self._data = path, job, data
        self.parts: dict[tuple[int, int], PartNote] = {}
        with self._writing():
            self._begin()
            (self.path / SUCCESS).unlink(missing_ok=True)  # until `finish`
            self._read_notes()
            self._remove_unnoted()

    def add(self, chunk: Chunk, part: Part) -> None:
        """Write a part, and note it.

        Raises:
            CheckError: the disk is full; everything that was noted before is kept.
        """
        name = f"part-{chunk.file:05d}-{chunk.number:06d}.{self._job.format}"
        file = self._data.files[chunk.file]
        temporary = self.path / f".{name}{TEMPORARY}"
        note = PartNote(
            part=name, file=file.name, position=chunk.file, number=chunk.number, rows=part.rows, errors=part.errors,
            gated=part.gated, last=chunk.last, size=len(part.content), input_size=file.size,
            input_modified_ns=file.modified_ns,
        )  # fmt: skip
        with self._writing():
            try:
                temporary.write_bytes(part.content)
                sync(temporary)
            except OSError:
                temporary.unlink(missing_ok=True)  # makes room
                raise
            temporary.rename(self.path / name)
            sync(self.path)
            self._append(note)
        self.parts[chunk.file, chunk.number] = note

    def finish(self, summary: dict[str, Any]) -> None:
        """Write _SUCCESS.

        Raises:
            CheckError: the disk is full.
        """
        with self._writing():
            write_text(self.path / SUCCESS, json.dumps(summary) + "\n")

    def _begin(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / JOB
        if not path.exists():
            ours = (f".{JOB}.", f".{LOCK}.")  # a run was killed before it had written the file
            if other := next((one for one in self.path.iterdir() if not one.name.startswith(ours)), None):
                raise FolderError(f"{self.path} has other content ({other.name}): wanted an empty or new folder")
            write_text(path, self._job.model_dump_json(indent=2) + "\n")
            return
        before = Job.read(path)
        if before != self._job:
            old, new = before.model_dump(), self._job.model_dump()
            name = next(name for name in old if old[name] != new[name])
            raise FolderError(
                f"{self.path} was begun with {name} {old[name]!r}, and this run has {new[name]!r}: give the same "
                "options to go on, or another output folder"
            )

    def _read_notes(self) -> None:
        path = self.path / MANIFEST
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]  # a line that was being written when the run was killed is not
        if len(whole) < len(content):
            os.truncate(path, len(whole))
            sync(path)
        for line in whole.splitlines():
            try:
                note = PartNote.model_validate_json(line)
            except ValidationError:
                raise FolderError(f"{path} has an invalid line: choose another output folder") from None
            self.parts[note.position, note.number] = note
        for position in sorted({position for position, _ in self.parts}):
            self._check_input(position)
        for key, note in list(self.parts.items()):
            part = self.path / note.part
            if not part.is_file() or part.stat().st_size != note.size:
                say(f"{WARNING}{part} is missing or has another size: its rows are scored again")
                del self.parts[key]

    def _check_input(self, position: int) -> None:
        """Check that an input file is the one that finished parts were made of; forget them if it has changed."""
        notes = [note for note in self.parts.values() if note.position == position]
        name = self._data.files[position].name if position < len(self._data.files) else None
        if notes[0].file != name:
            raise FolderError(
                f"{self.path} was begun when file {position + 1} of the input was {notes[0].file}, now it is {name}: "
                "files may only be added behind the others; choose another output folder"
            )
        file = self._data.files[position]
        if any((note.input_size, note.input_modified_ns) != (file.size, file.modified_ns) for note in notes):
            say(f"{WARNING}{file.path} has changed since its rows were scored: they are scored again")
            for note in notes:
                del self.parts[note.position, note.number]

    def _remove_unnoted(self) -> None:
        """Make notes and parts agree: rewrite the manifest if parts were dropped from it, remove the other parts."""
        path = self.path / MANIFEST
        lines = "".join(note.model_dump_json() + "\n" for note in self.parts.values())
        if path.exists() and path.read_text(encoding="utf-8") != lines:
            write_text(path, lines)
        names = {note.part for note in self.parts.values()}
        for one in self.path.iterdir():
            if one.name.startswith(OURS) and one.name not in names:
                one.unlink()

    def _append(self, note: PartNote) -> None:
        handle = os.open(self.path / MANIFEST, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            line = (note.model_dump_json() + "\n").encode()
            if os.write(handle, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)
        finally:
            os.close(handle)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in CANNOT_WRITE:
                raise FolderError(f"cannot write {self.path} ({error.strerror}): wanted a writable folder") from None
            raise CheckError(
                f"cannot write {self.path} ({error.strerror}): make room and run the same command again; "
                f"{sum(note.rows for note in self.parts.values())} rows are finished and kept"
            ) from None
