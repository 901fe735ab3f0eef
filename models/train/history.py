"""Training history: the JSONL log, TensorBoard events, the plot, and the History record of a finished training."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

from models.schema import Record
from models.store.folder import EVENTS, LOG, PLOT


class Evaluation(Record):
    """Metrics on the held-out rows after `step` steps."""

    step: int
    metrics: dict[str, float]


class History(Record):
    """Summary of a finished training."""

    steps: int
    best_step: int  # the step whose weights were kept: the last one, unless a metric was watched
    losses: tuple[float, ...]  # mean training loss of each epoch
    evaluations: tuple[Evaluation, ...]
    seconds: float  # time spent in training steps, summed over all restarts
    texts: int
    tokens: int  # real tokens: padding is not counted
    stopped_early: bool


class Log:
    """Writes `log.jsonl` and TensorBoard scalars. Without a folder it writes nothing.

    A resumed run starts at the step of its snapshot; entries of later steps are removed.
    """

    def __init__(self, folder: Path | None, step: int) -> None:
        self._file = self._writer = None
        if folder is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        earlier = [entry for entry in read_log(folder) if entry["step"] <= step]
        self._file = (folder / LOG).open("w", encoding="utf-8")
        for entry in earlier:
            self._file.write(json.dumps(entry) + "\n")
        self._writer = SummaryWriter(str(folder / EVENTS), purge_step=step + 1)

    def add(self, step: int, **values: float) -> None:
        """Write one line to the log, and each value as a TensorBoard scalar."""
        if self._file is None or self._writer is None:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close both files."""
        if self._file is not None and self._writer is not None:
            self._file.close()
            self._writer.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the entries of a log; an incomplete last line, left by a kill, is dropped."""
    path = folder / LOG
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def keep_logs(scratch: Path, target: Path) -> None:
    """Copy the log, the events and the plot of a finished training into its folder."""
    for name in (LOG, PLOT):
        if (scratch / name).is_file():
            shutil.copyfile(scratch / name, target / name)
    if (scratch / EVENTS).is_dir():
        shutil.copytree(scratch / EVENTS, target / EVENTS)


def draw_training(folder: Path, metric: str | None) -> None:
    """Draw `training.svg` from the log: loss, watched metric and learning rate by step."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    entries = read_log(folder)
    shown = [name for name in ("loss", metric, "learning_rate") if name and any(name in entry for entry in entries)]
    with mpl.rc_context({"svg.hashsalt": "prunella", "font.size": 9}):
        figure = Figure(figsize=(6.4, 1.9 * max(1, len(shown))), layout="constrained")
        axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for axis, name in zip(axes, shown, strict=True):
            points = [(e["step"], e[name]) for e in entries if name in e and math.isfinite(e[name])]
            axis.plot(*zip(*points, strict=True), marker="o" if len(points) < 30 else None, markersize=3, linewidth=1)
            axis.set_ylabel(name.replace("_", " "))
            axis.grid(alpha=0.3)
        axes[-1].set_xlabel("step")
        figure.savefig(folder / PLOT, metadata={"Date": None})
