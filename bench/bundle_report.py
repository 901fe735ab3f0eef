"""renew_report(): what was measured → the report.json of a bundle, which keeps what was not measured this time."""

import json
import tempfile
from pathlib import Path
from typing import Any

from models.atomic import write_text
from models.console import say
from models.errors import FolderError
from models.folder import REPORT

# each group is of one measurement: a new one replaces all of it, so that no two numbers of it are of different rows
LOSS = (
    "rows", "reference", "loss_is", "loss_points", "loss_interval", "loss_is_inside", "max_loss",
    *(f"{prefix}{name}" for prefix in ("", "reference_") for name in ("accuracy", "subset_accuracy", "pearson")),
    "macro_f1", "micro_f1", "spearman", "rmse",
)  # fmt: skip
SPEED = ("batch", "threads", "tokens", "grouping", "p50_ms", "speedup", "target_met")
GROUPS = {"loss_points": LOSS, "speedup": SPEED}  # by the key that says that the group was measured


def check_place(folder: Path) -> None:
    """Make a folder and try to write there, before a measurement takes minutes.

    Raises:
        FolderError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FolderError(f"{folder} cannot be written ({error.strerror}): choose another --out") from None


def merged(older: dict[str, Any], newer: dict[str, Any]) -> dict[str, Any]:
    """Return a bundle's report after a measurement: the newer numbers, and the older of what was not measured.

    Data without labels, or a reference that did not run, gives no loss: the older loss stays, with the rows that it
    is of. What a compression was asked for (`asked`, `vocabulary`, `tried`, …) always stays.
    """
    kept = dict(older)
    found = dict(newer)
    for key, group in GROUPS.items():
        if found.get(key) not in (None, {}):  # 0 points are a loss that was measured
            kept = {name: value for name, value in kept.items() if name not in group}
        elif kept.get(key) not in (None, {}):
            found = {name: value for name, value in found.items() if name not in group}
    return kept | found


def renew_report(folder: Path, newer: dict[str, Any]) -> None:
    """Write `newer` into the report of the bundle in `folder`; a bundle that cannot be written keeps its report."""
    path = folder / REPORT
    try:
        older = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        write_text(path, json.dumps(merged(older, newer), indent=2) + "\n")
    except (OSError, ValueError) as error:
        say(f"{path} keeps what it says: it cannot be renewed ({error})")
