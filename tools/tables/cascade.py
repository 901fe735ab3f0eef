"""cascade_table() and draw_cascades(): archived runs of `prunella cascade`, as a Markdown table and as a figure."""

from pathlib import Path
from typing import Any

from bench.report.markdown import points_lost
from tools.archive_run import archived_runs, command_line

HEADS = (
    "run", "student, mean ms", "cascade, mean ms", "times as fast by the mean: student, cascade",
    "p95 ms: student, cascade", "share of the test rows", "gate, µs", "loss against the full model, points [95 %]",
    "added by the gate [95 %]", "allowed, bound at 95 %", "threshold rows", "test rows",
)  # fmt: skip
TICKS = (4, 8, 16, 32, 64)


def cascade_table(folder: Path) -> str:
    """Return a Markdown table with a line for each archived run, and the commands of the runs."""
    runs = archived_runs(folder)
    lines = ["| " + " | ".join(HEADS) + " |", "| --- |" + " ---: |" * (len(HEADS) - 1)]
    lines += [_line(name, run["result"]["cascade"]) for name, run in runs.items()]
    return "\n".join([*lines, "", *[command_line(name, run) for name, run in runs.items()]])


def _line(name: str, cascade: dict[str, Any]) -> str:
    student, speedup = cascade["student_mean_ms"], cascade["speedup_mean"]
    cells = [
        name, f"{student:.3f}", f"{cascade['mean_ms']:.3f}",
        f"{cascade['reference_mean_ms'] / student:.1f}x, **{speedup:.1f}x**",
        f"{cascade['student_p95_ms']:.2f}, {cascade['p95_ms']:.2f}", f"{cascade['test_share']:.1%}",
        f"{1e3 * cascade['gate_ms']:.0f}", _points(cascade, "loss"), _points(cascade, "added_loss"),
        f"{cascade['max_loss']:g}, {cascade['bound_points']:.2f}", f"{cascade['rows']:,}",
        f"{cascade['test_rows']:,}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _points(cascade: dict[str, Any], name: str) -> str:
    return points_lost(cascade[f"{name}_points"], cascade[f"{name}_interval"])


def draw_cascades(folder: Path, path: Path) -> None:
    """Draw points lost over the speed-up by the mean time: an arrow from each student to its cascade."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "prunella", "font.size": 9}):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axis = figure.subplots()
        axis.axhline(0, color="0.4", linewidth=0.8)
        for number, (name, run) in enumerate(archived_runs(folder).items()):
            cascade, colour = run["result"]["cascade"], f"C{number}"
            student = cascade["reference_mean_ms"] / cascade["student_mean_ms"], cascade["student_loss_points"]
            gated = cascade["speedup_mean"], cascade["loss_points"]
            low, high = cascade["loss_interval"]
            axis.annotate("", gated, student, arrowprops={"arrowstyle": "->", "color": colour, "alpha": 0.7})
            axis.plot(*student, "o", color=colour, markersize=5)
            bars = [[gated[1] - low], [high - gated[1]]]
            axis.errorbar(*gated, yerr=bars, fmt="D", color=colour, capsize=2, markersize=6, label=name)
        axis.set_xscale("log")
        axis.set_xticks(TICKS, [f"{tick}x" for tick in TICKS])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.set_xlabel("speed-up by the mean time of a text, token ids to answer, over fp32 on ONNX Runtime")
        axis.set_ylabel("points of accuracy lost")
        axis.legend(title="circle: student, diamond: cascade", fontsize=8)
        figure.savefig(path, metadata={"Date": None})
