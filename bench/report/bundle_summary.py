"""renew_report(): update the report.json in a bundle with new results; keep those that were not measured again."""

import json
import tempfile
from pathlib import Path
from typing import Any

from models.errors import FolderError
from models.messages import say
from models.store.atomic import write_text
from models.store.folder import REPORT

# the keys of a group come from one measurement and are replaced together, so that all are of the same rows
LOSS = (
    "rows", "reference", "loss_is", "loss_points", "loss_interval", "loss_is_inside", "max_loss",
    *(f"{prefix}{name}" for prefix in ("", "reference_") for name in ("accuracy", "subset_accuracy", "pearson")),
    "macro_f1", "micro_f1", "spearman", "rmse", "rows_to_be_sure", "collapsed_labels",
    "chosen_on_reported_rows", "judged_on_training_rows",
)  # fmt: skip
SPEED = (
    "batch", "threads", "tokens", "grouping", "p50_ms", "speedup", "speedup_interval", "speedup_of", "text_to_answer",
    "target_met",
)  # fmt: skip
GROUPS = {"loss_points": LOSS, "speedup": SPEED}  # by the key whose presence shows that the group was measured


def check_place(folder: Path) -> None:
    """Create a folder and check that it can be written, before a measurement that takes minutes.

    Raises:
        FolderError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FolderError(f"{folder} cannot be written ({error.strerror}): choose another --out") from None


def merged(older: dict[str, Any], newer: dict[str, Any]) -> dict[str, Any]:
    """Return a bundle's report after a measurement: the new results, and the old ones that were not measured again.

    Without labels in the data, or without a reference that ran, no loss is measured: the old loss stays, together
    with its number of rows. The results of the compression (`asked`, `vocabulary`, `tried`, …) always stay.
    """
    old, new = dict(older), dict(newer)
    for key, group in GROUPS.items():
        if new.get(key) not in (None, {}):  # a loss of 0 points was measured
            old = {name: value for name, value in old.items() if name not in group}
        elif old.get(key) not in (None, {}):
            new = {name: value for name, value in new.items() if name not in group}
    return old | new


def renew_report(folder: Path, newer: dict[str, Any]) -> None:
    """Merge `newer` into the report of the bundle in `folder`; warn if the bundle cannot be written."""
    path = folder / REPORT
    try:
        older = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        write_text(path, json.dumps(merged(older, newer), indent=2) + "\n")
    except (OSError, ValueError) as error:
        say(f"WARNING: {path} was not updated ({error})")
