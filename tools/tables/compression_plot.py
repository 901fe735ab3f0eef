"""draw_compression(): a figure of the archived runs, points lost against speed-up, with a panel for each data set."""

from pathlib import Path

from models.errors import FolderError
from tools.archive_run import archived_runs
from tools.tables.compression import points_of

SETS = {
    "sst2": "SST-2", "trec": "TREC", "clinc150": "CLINC150, 150 labels", "ag-news": "AG News", "mrpc": "MRPC, pairs",
    "imdb": "IMDB, 256 tokens",
}  # fmt: skip
MODES = {"untrained": ("tab:blue", "o"), "healed": ("tab:red", "s"), "healed, with --texts": ("tab:green", "^")}
TICKS = (2, 3, 4, 6, 8, 12)
MOST = 8.0  # upper end of the axis, in points lost: larger losses are of no practical use


def draw_compression(folder: Path, path: Path) -> None:
    """Draw each result with its 95 % interval; a run belongs to the data set that its name begins with.

    Raises:
        FolderError: A run's name does not begin with a data set.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    runs = archived_runs(folder)
    if unknown := [name for name in runs if not name.startswith(tuple(SETS))]:
        raise FolderError(f"{folder} has {', '.join(unknown)}: wanted names that begin with {', '.join(SETS)}")
    with mpl.rc_context({"svg.hashsalt": "prunella", "font.size": 9}):
        figure = Figure(figsize=(9.6, 5.6), layout="constrained")
        panels = figure.subplots(2, 3, sharex=True, sharey=True).flat
        for (prefix, title), axis in zip(SETS.items(), panels, strict=True):
            axis.axhline(0, color="0.4", linewidth=0.8)
            axis.axhline(1, color="0.4", linewidth=0.8, linestyle=":")
            for name, run in runs.items():
                if name.startswith(prefix):
                    colour, marker = MODES[mode_of(run["command"])]
                    for point in points_of(run):
                        loss, (low, high) = point["loss_points"], point["loss_interval"]
                        axis.errorbar(
                            point["speedup"]["ort_fp32"], loss, yerr=[[loss - low], [high - loss]], fmt=marker,
                            color=colour, capsize=2, markersize=4, linewidth=0.8, alpha=0.8,
                        )  # fmt: skip
            axis.set_title(title)
            axis.set_xscale("log")
            axis.set_xticks(TICKS, [f"{tick}x" for tick in TICKS])
            axis.minorticks_off()
            axis.set_ylim(-2, MOST)
            axis.grid(alpha=0.3)
        figure.supxlabel("speed-up over fp32 on ONNX Runtime, measured")
        figure.supylabel("points of accuracy lost")
        handles = [Line2D([], [], color=c, marker=m, linestyle="") for c, m in MODES.values()]
        figure.legend(handles, list(MODES), loc="outside upper center", ncols=3)
        figure.savefig(path, metadata={"Date": None})


def mode_of(command: str) -> str:
    """Return which of MODES a `prunella compress` command is."""
    if "--mode instant" in command:
        return "untrained"
    return "healed, with --texts" if "--texts" in command else "healed"
