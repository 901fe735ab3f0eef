"""families_table(): which folders open, from the archived run of `tools.studies.families`."""

import json
from pathlib import Path
from typing import Any

from bench.report.markdown import table

HEADS = [
    "family", "tokenizer", "written by", "opens", "differs from transformers by", "ONNX graph by",
    "int8 over fp32 [95 %]", "can be pruned",
]  # fmt: skip


def families_table(folder: Path) -> str:
    """Return a Markdown table with a line for each form of a folder, and the command and the machine.

    Args:
        folder: docs/results/models.
    """
    run = json.loads((folder / "families.json").read_text(encoding="utf-8"))
    lines = [_cells(row) for row in sorted(run["rows"], key=lambda row: row["family"])]
    return f"{table(HEADS, lines)}\n\n`{run['command']}`, {run['machine']['processor']}."


def _cells(row: dict[str, Any]) -> list[str]:
    names = [row["family"], row["tokenizer"], row["writer"]]
    if not row["opens"]:
        return [*names, f"no: {row['problem']}", "", "", "", ""]
    speedup = ""
    if "speedup" in row:
        low, high = row["speedup_interval"]
        speedup = f"{row['speedup']:.1f}x [{low:.1f}, {high:.1f}]"
    differences = [f"{row[name]:.0e}" for name in ("difference", "onnx_difference")]
    return [*names, "yes", *differences, speedup, "yes" if row["prunable"] else "no"]
