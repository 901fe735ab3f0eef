"""draw_compression(): the runs kept in docs/results → one figure of points lost over speed-up, a panel a set."""

from pathlib import Path

from bench.compression_table import points_of
from bench.record import kept_runs
from models.errors import FolderError

SETS = {
    "sst2": "SST-2", "trec": "TREC", "clinc150": "CLINC150, 150 labels", "ag-news": "AG News", "mrpc": "MRPC, pairs",
    "imdb": "IMDB, 256 tokens",
}  # fmt: skip
MODES = {"untrained": ("tab:blue", "o"), "healed": ("tab:red", "s"), "healed, with --texts": ("tab:green", "^")}
TICKS = (2, 3, 4, 6, 8, 12)
MOST = 8.0  # points lost: what is worse is nothing to choose from


def draw_compression(folder: Path, path: Path) -> None:
    """Draw each point with its 95 % interval; a run belongs to the set that its name begins with.

    Raises:
        FolderError: a run's name begins with no set.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    runs = kept_runs(folder)
    if strangers := [name for name in runs if not name.startswith(tuple(SETS))]:
        raise FolderError(f"{folder} has {', '.join(strangers)}: wanted names that begin with {', '.join(SETS)}")
    with mpl.rc_context({"svg.hashsalt": "prunella", "font.size": 9}):
        figure = Figure(figsize=(9.6, 5.6), layout="constrained")
        panels = figure.subplots(2, 3, sharex=True, sharey=True).flat
        for (begins, title), axis in zip(SETS.items(), panels, strict=True):
            axis.axhline(0, color="0.4", linewidth=0.8)
            axis.axhline(1, color="0.4", linewidth=0.8, linestyle=":")
            for name, run in runs.items():
                if name.startswith(begins):
                    colour, marker = MODES[mode_of(run["command"])]
                    for point in points_of(run):
                        lost, (low, high) = point["loss_points"], point["loss_interval"]
                        axis.errorbar(
                            point["speedup"]["ort_fp32"], lost, yerr=[[lost - low], [high - lost]], fmt=marker,
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
    """Return which of MODES a `prunella compress` was."""
    if "--mode instant" in command:
        return "untrained"
    return "healed, with --texts" if "--texts" in command else "healed"
