"""What a training told on its way: a JSONL file, TensorBoard events, a plot, and the History that stays."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

from models.folder import EVENTS, LOG, PLOT
from models.record import Record


class Evaluation(Record):
    """Metrics on held-out rows after `step` steps."""

    step: int
    metrics: dict[str, float]


class History(Record):
    """A finished training."""

    steps: int
    best_step: int  # whose weights were kept: the last, unless a metric was watched
    losses: tuple[float, ...]  # mean training loss of each epoch
    evaluations: tuple[Evaluation, ...]
    seconds: float  # spent in steps, over all restarts
    texts: int
    tokens: int  # real ones: padding is not counted
    stopped_early: bool


class Log:
    """Lines of `log.jsonl` and TensorBoard scalars; a run that goes on drops what came after its snapshot."""

    def __init__(self, folder: Path | None, step: int) -> None:
        self._file = self._writer = None
        if folder is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_log(folder) if line["step"] <= step]
        self._file = (folder / LOG).open("w", encoding="utf-8")
        for line in kept:
            self._file.write(json.dumps(line) + "\n")
        self._writer = SummaryWriter(str(folder / EVENTS), purge_step=step + 1)

    def add(self, step: int, **values: float) -> None:
        """Add one line; each value is a scalar of TensorBoard too."""
        if self._file is None or self._writer is None:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        if self._file is not None and self._writer is not None:
            self._file.close()
            self._writer.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a log; a line that a kill cut in two is dropped."""
    path = folder / LOG
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def keep_logs(scratch: Path, target: Path) -> None:
    """Copy log, events and plot of a finished training into its folder."""
    for name in (LOG, PLOT):
        if (scratch / name).is_file():
            shutil.copyfile(scratch / name, target / name)
    if (scratch / EVENTS).is_dir():
        shutil.copytree(scratch / EVENTS, target / EVENTS)


def draw_training(folder: Path, metric: str | None) -> None:
    """Draw `training.svg` from the log: the loss, the watched metric and the learning rate over the steps."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    lines = read_log(folder)
    shown = [name for name in ("loss", metric, "learning_rate") if name and any(name in line for line in lines)]
    with mpl.rc_context({"svg.hashsalt": "prunella", "font.size": 9}):
        figure = Figure(figsize=(6.4, 1.9 * max(1, len(shown))), layout="constrained")
        axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for axis, name in zip(axes, shown, strict=True):
            points = [(line["step"], line[name]) for line in lines if name in line and math.isfinite(line[name])]
            axis.plot(*zip(*points, strict=True), marker="o" if len(points) < 30 else None, markersize=3, linewidth=1)
            axis.set_ylabel(name.replace("_", " "))
            axis.grid(alpha=0.3)
        axes[-1].set_xlabel("step")
        figure.savefig(folder / PLOT, metadata={"Date": None})
