"""deliver(): copy the folder of the last stage to --out, if given, and return its location and its report."""

import json
from pathlib import Path
from typing import Any

from models.distributed import rank
from models.schema import Record
from models.store.delivery import copy_folder
from models.store.folder import REPORT
from models.store.stage import StageResult


class Delivered(Record):
    """Location, id and report of a finished folder."""

    folder: str
    id: str
    reused: bool  # whether the folder was in the store before
    report: dict[str, Any]  # content of report.json without `details`

    def summary(self, verb: str) -> dict[str, Any]:
        """Return the JSON object that a verb prints as its last line."""
        return {"verb": verb, "folder": self.folder, "id": self.id, "reused": self.reused, **self.report}


def deliver(result: StageResult, out: Path | None, more: dict[str, Any] | None = None) -> Delivered:
    """Copy the folder to `out`; with several processes, only the main one copies.

    Args:
        result: result of the last stage.
        out: target of the copy; None: the folder is only in the store.
        more: more keys for the report.

    Raises:
        FolderError: `out` holds something else, or cannot be written.
    """
    folder = copy_folder(result.folder, out) if out and rank() == 0 else result.folder
    path = folder.path / REPORT
    report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    report.pop("details", None)
    return Delivered(folder=str(folder.path), id=folder.id, reused=result.reused, report=report | (more or {}))
