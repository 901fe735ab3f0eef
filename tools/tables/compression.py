"""compression_table() and ablation_table(): Markdown tables of the archived runs in docs/results."""

from pathlib import Path
from typing import Any

from bench.report.markdown import points_lost
from models.architecture import shape_in
from tools.archive_run import archived_runs, command_line


def compression_table(folder: Path) -> str:
    """Return a Markdown table with a line for each result of the runs in `folder`, and the commands of the runs."""
    lines = [
        "| run | processor | target | speed-up | ms, fp32 before | MB | accuracy | loss, points [95 %] | rows "
        "| heads/ffn |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    runs = archived_runs(folder)
    for name, run in runs.items():
        lines += [_line(name, run["machine"]["processor"], point) for point in points_of(run)]
    return "\n".join([*lines, "", *[command_line(name, run) for name, run in runs.items()]])


def points_of(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the results of an archived `prunella compress`: those of all targets of --family, or the single one."""
    return run["result"].get("family", [run["result"]])


def _line(name: str, processor: str, point: dict[str, Any]) -> str:
    table = ", table in 4 bits" if point.get("embedding_bits") == 4 else ""
    cells = [
        name, processor, point["asked"], f"{point['speedup']['ort_fp32']:.2f}x",
        f"{point['p50_ms']['ours']:.2f}, {point['p50_ms']['ort_fp32']:.2f}", f"{point['bytes'] / 1e6:.1f}{table}",
        f"{100 * point[point['loss_is']]:.2f}", points_lost(point["loss_points"], point["loss_interval"]),
        point["rows"], shape_in(point["architecture"]),
    ]  # fmt: skip
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def ablation_table(folder: Path) -> str:
    """Return the runs of `tools.ablation` in `folder` as Markdown tables, each with its command."""
    return "\n\n".join(
        f"{students_table(run['result']['students'])}\n\n{command_line(name, run)}"
        for name, run in archived_runs(folder).items()
    )


def students_table(students: list[dict[str, Any]]) -> str:
    """Return the students of an ablation as a Markdown table; the full methods have no differences."""
    lines = [
        "| | heads/ffn | accuracy | points lost | divergence | more by |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    # the full method is the first student, with healing and without it
    wholes = {student["healed"]: student["name"] for student in reversed(students)}
    for student in students:
        (low, high), (less, more) = student["points_interval"], student["more_divergence_interval"]
        is_whole = student["name"] == wholes[student["healed"]]
        lines.append(
            f"| {'healed: ' if student['healed'] else ''}{student['name']} | {student['shape']} "
            f"| {student['accuracy']:.2%} | "
            + ("" if is_whole else f"{student['points']:+.1f} [{low:+.1f}, {high:+.1f}]")
            + f" | {student['divergence']:.3f} | "
            + ("" if is_whole else f"{student['more_divergence']:+.3f} [{less:+.3f}, {more:+.3f}]")
            + " |"
        )
    return "\n".join(lines)
