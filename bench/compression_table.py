"""compression_table() and ablation_table(): the runs kept in docs/results → Markdown."""

from pathlib import Path
from typing import Any

from bench.record import command_line, kept_runs
from models.architecture import shape_in


def compression_table(folder: Path) -> str:
    """Return a Markdown table: a line for each point of each `prunella compress` in `folder`; and the commands."""
    lines = [
        "| run | asked | speed-up | ms, fp32 before | MB | accuracy | loss, points [95 %] | rows | heads/ffn |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    runs = kept_runs(folder)
    for name, run in runs.items():
        lines += [_point(name, point) for point in points_of(run)]
    return "\n".join([*lines, "", *[command_line(name, run) for name, run in runs.items()]])


def points_of(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the points of a kept `prunella compress`: of a family, or the one there is."""
    return run["result"].get("family", [run["result"]])


def _point(name: str, point: dict[str, Any]) -> str:
    low, high = point["loss_interval"]
    table = ", table in 4 bits" if point.get("embedding_bits") == 4 else ""
    cells = [
        name, point["asked"], f"{point['speedup']['ort_fp32']:.2f}x",
        f"{point['p50_ms']['ours']:.2f}, {point['p50_ms']['ort_fp32']:.2f}", f"{point['bytes'] / 1e6:.1f}{table}",
        f"{100 * point[point['loss_is']]:.2f}", f"{point['loss_points']:+.2f} [{low:+.2f}, {high:+.2f}]",
        point["rows"], shape_in(point["architecture"]),
    ]  # fmt: skip
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def ablation_table(folder: Path) -> str:
    """Return the runs of `compress.ablation` in `folder` as Markdown tables, each with its command."""
    return "\n\n".join(
        f"{students_table(run['result']['students'])}\n\n{command_line(name, run)}"
        for name, run in kept_runs(folder).items()
    )


def students_table(students: list[dict[str, Any]]) -> str:
    """Return the students of an ablation as a Markdown table; of the whole ones nothing is a difference."""
    lines = [
        "| | heads/ffn | accuracy | points lost | divergence | more by |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    wholes = {student["healed"]: student["name"] for student in reversed(students)}  # the first of its kind
    for found in students:
        (low, high), (less, more) = found["points_interval"], found["more_divergence_interval"]
        is_whole = found["name"] == wholes[found["healed"]]
        lines.append(
            f"| {'healed: ' if found['healed'] else ''}{found['name']} | {found['shape']} "
            f"| {found['accuracy']:.2%} | "
            + ("" if is_whole else f"{found['points']:+.1f} [{low:+.1f}, {high:+.1f}]")
            + f" | {found['divergence']:.3f} | "
            + ("" if is_whole else f"{found['more_divergence']:+.3f} [{less:+.3f}, {more:+.3f}]")
            + " |"
        )
    return "\n".join(lines)
