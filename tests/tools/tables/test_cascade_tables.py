"""The table and the figure of cascades: each archived run is a line, and an arrow from its student to its cascade."""

import json
from pathlib import Path
from xml.etree import ElementTree

from tools.tables.cascade import cascade_table, draw_cascades

CASCADE = {
    "share": 0.62, "threshold": 0.9, "bound_points": 1.34, "max_loss": 1.5, "rows": 1700, "mean_ms": 0.1,
    "p95_ms": 0.31, "gate_ms": 0.0102, "student_mean_ms": 0.25, "student_p95_ms": 0.3, "reference_mean_ms": 5.0,
    "speedup_mean": 50.0, "test_rows": 500, "test_share": 0.621, "loss_points": 1.4, "loss_interval": [0.3, 3.0],
    "student_loss_points": 0.8, "added_loss_points": 0.6, "added_loss_interval": [-0.2, 1.7],
}  # fmt: skip


def archive(folder: Path, name: str) -> None:
    run = {"command": f"prunella cascade {name}", "result": {"cascade": CASCADE}}
    (folder / f"{name}.json").write_text(json.dumps(run))


def test_each_run_is_a_line_with_student_and_cascade_and_has_its_command(tmp_path):
    archive(tmp_path, "trec")
    lines = cascade_table(tmp_path).splitlines()
    cells = [
        "trec", "0.250", "0.100", "20.0x, **50.0x**", "0.30, 0.31", "62.1%", "10", "+1.40 [+0.30, +3.00]",
        "+0.60 [-0.20, +1.70]", "1.5, 1.34", "1,700", "500",
    ]  # fmt: skip
    assert lines[2] == "| " + " | ".join(cells) + " |"
    assert {line.count("|") for line in lines[:3]} == {len(cells) + 1}
    assert lines[-1] == "- `trec`: `prunella cascade trec`"


def test_the_figure_is_the_same_each_time_and_names_each_run(tmp_path):
    for name in ("trec", "ag-news"):
        archive(tmp_path, name)
    path = tmp_path / "figure.svg"
    draw_cascades(tmp_path, path)
    first = path.read_text(encoding="utf-8")
    ElementTree.fromstring(first)
    draw_cascades(tmp_path, path)
    assert path.read_text(encoding="utf-8") == first
    assert "ag-news" in first
    assert "trec" in first
