"""Points of one model at several targets: the fastest inside the loss on the rows that choose, reported on others.

Where there are too few rows for both (`Inputs.test` is None), the same rows choose and are reported, and the summary
says so.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bench.accuracy import Answers, Difference, Metric
from bench.evaluate import bundle_logits
from bench.judging import NAMES, choose_metric, judge, judge_loss, told
from bench.recall import LabelRecall
from compress.bundle import fallen_back, taken_precision
from compress.clock import Measured, open_clock
from compress.guards import check_reported_loss, name_collapsed, refuse_uninformative
from compress.prune import Prepared
from compress.target import Target
from export.precision import EmbeddingBits
from models import task as task_file
from models.architecture import shape_in
from models.atomic import write_text
from models.checkpoint import load_checkpoint, read_architecture
from models.console import say
from models.errors import CheckError, DisagreementError, FallBackError, TargetError
from models.folder import REPORT, ModelFolder
from models.record import Record
from models.stage import Made
from models.task import Task
from models.tokens import Tokenizer
from models.train.predict import predict
from service.bundle import Bundle

T = TypeVar("T")
MUCH_SLOWER = 0.5  # a bundle for a size may be slower than the model it came from, but not so much, for certain
CUTS = 3  # for one target


class Point(Record):
    """A bundle, and what it is."""

    target: Target
    folder: str
    id: str
    architecture: str
    measured: Measured
    score: float  # of the metric that `difference` names, on the rows that are reported
    reference_score: float
    difference: Difference  # on the rows that are reported
    choosing: Difference | None = None  # on the rows that choose; None: they are the same
    collapsed: tuple[LabelRecall, ...] = ()  # labels of which less than half of the recall is left
    met: bool = True  # whether the target was, within the tolerance, when the bundle was judged
    embedding_bits: EmbeddingBits = 8  # of the token table
    vocabulary: dict[str, int | bool] | None = None  # tokens, and held-out texts that are split or answered otherwise

    @property
    def metric(self) -> Metric:
        """What `score` is."""
        return self.difference.metric

    @property
    def chosen_by(self) -> Difference:
        """The difference by which the point is taken or not."""
        return self.difference if self.choosing is None else self.choosing

    def sureness(self, max_loss: float) -> str:
        """Return how sure it is that the reported loss is inside: `Difference.verdict`."""
        return self.difference.verdict(max_loss)


class Answered(Record):
    """What a bundle and the model that it came from answer to some rows, against the truth."""

    score: float
    reference_score: float
    difference: Difference


class Judge:
    """Compares bundles with the model that they came from: answers to labelled rows, and time."""

    def __init__(self, ready: Prepared, metric: str | None = None) -> None:
        inputs, path = ready.inputs, ready.inputs.source.path
        task = Task.read(path / task_file.FILE)
        tokenizer = Tokenizer.open(path, task.max_tokens)
        self._task, self._metric, self._choosing = task, choose_metric(task.kind, metric), len(inputs.validation)
        labelled = inputs.roles.everything  # those that choose, then those that are reported
        self._rows, self._truth = labelled.rows, labelled.targets(task)
        encoded = tokenizer.encode(self._rows)
        self._reference = task.decide(task.scores(predict(load_checkpoint(path), encoded, tokenizer)))
        self._base = ready.base.path
        trimmed = ready.base.id != inputs.source.id
        self._vocabulary = json.loads((self._base / REPORT).read_text(encoding="utf-8")) if trimmed else None
        self._clock = open_clock(inputs, ready.base, ready.reference, ready.load)

    def point(self, folder: ModelFolder, target: Target, tolerance: float) -> Point:
        """Judge a bundle.

        A miss of a speed is part of the point (`met`); who asked is told.

        Raises:
            TargetError: it is slower than the model it came from, or misses its target in size.
            FallBackError: it misses its target, and is not what was chosen: sublayers went back to fp32.
            TargetError: its answers hardly depend on the text (`refuse_uninformative`).
        """
        bundle = Bundle.open(folder.path)
        variant = bundle.info.default["cpu"]
        answers = self._task.decide(self._task.scores(bundle_logits(folder.path, self._rows)))
        graph, size = bundle.onnx_path(variant), bundle.served_bytes(variant)
        measured = self._clock.time(graph, size, "judgement")
        refuse_slow(folder.path, target, measured)
        met = target.is_met(measured, tolerance, bundle.architecture != read_architecture(self._base))
        if not met:
            told = f"{folder.path}: {target.miss(measured, tolerance)}"
            if fallen := fallen_back(folder.path):
                raise FallBackError(f"{told}: {', '.join(fallen)} went back to fp32 after the search", fallen)
            if target.kind == "size_mb":
                raise TargetError(f"{told}: allow a larger --tolerance")
        taken = taken_precision(folder.path)
        refuse_uninformative(self._task, self._truth, self._reference, answers)
        first, second = slice(0, self._choosing), slice(self._choosing, None)
        same = self._choosing == len(self._rows)
        chosen, reported = self._answered(answers, first), self._answered(answers, first if same else second)
        collapsed = name_collapsed(self._task, self._truth, self._reference, answers)
        return Point(
            target=target, folder=str(folder.path), id=folder.id, architecture=bundle.architecture.summary(),
            measured=measured, **{name: getattr(reported, name) for name in Answered.model_fields},
            choosing=None if same else chosen.difference, collapsed=collapsed, met=met, vocabulary=self._vocabulary,
            embedding_bits=8 if taken is None else taken.embedding_bits,
        )  # fmt: skip

    def _answered(self, answers: Answers, rows: slice) -> Answered:
        kind, metric, truth, was = self._task.kind, self._metric, self._truth[rows], self._reference[rows]
        return Answered(
            score=judge(kind, truth, answers[rows], metric), reference_score=judge(kind, truth, was, metric),
            difference=judge_loss(kind, truth, was, answers[rows], metric),
        )  # fmt: skip


def refuse_slow(path: Path, target: Target, measured: Measured) -> None:
    """Refuse a bundle that is slower than the model it came from, for certain; where a size was asked for, say so.

    Raises:
        TargetError: it is slower; where a size was asked for, less than MUCH_SLOWER as fast.
    """
    highest = measured.interval[1] if measured.interval else measured.speedup
    told = f"{path} is {measured.speedup:.2f}x as fast as the model it came from"
    if highest <= (1 if target.timed else MUCH_SLOWER):
        raise TargetError(f"{told}: not shipped; {'ask for more speed' if target.timed else 'ask for less bytes'}")
    if highest <= 1:
        say(f"WARNING: {told}: int8 gains nothing on this processor, and only the size was asked for")


def reach(targets: Sequence[Target], make: Callable[[Target], T]) -> tuple[list[T], dict[str, str]]:
    """Make what can be made: one target out of reach does not take the others with it.

    Returns:
        What `make` gave, and for each target that it could not reach, why.

    Raises:
        TargetError: none can be reached.
        DisagreementError: the only one is reached, and two forms of the model answer differently.
    """
    made, unreached = [], {}
    for target in targets:
        try:
            made.append(make(target))
        except (TargetError, DisagreementError) as error:
            if len(targets) == 1:
                raise
            unreached[target.told()] = str(error)
            say(f"{target.told()} is left out: {error}")
    if not made:
        raise TargetError(f"none of {', '.join(unreached)} can be reached: {'; '.join(unreached.values())}")
    return made, unreached


def judged(build: Callable[[frozenset[str]], Made], judge: Callable[[Made], Point]) -> tuple[Made, Point]:
    """Build and judge a bundle; if it is slow for sublayers that went back to fp32, begin with them in fp32.

    Args:
        build: sublayers that are left in fp32 → the bundle.
        judge: the bundle → what it is.

    Raises:
        FallBackError: others went back each time.
    """
    held: frozenset[str] = frozenset()
    for left in reversed(range(CUTS)):
        made = build(held)
        try:
            return made, judge(made)
        except FallBackError as error:
            if not left:
                raise
            held |= set(error.sublayers)
            say(f"{error}: cut again, with {', '.join(sorted(held))} in fp32 from the start")
    raise AssertionError("the last turn returns or raises")


def pick(points: Sequence[Point], max_loss: float) -> Point:
    """Return the fastest point whose loss is inside `max_loss`, in points, on the rows that choose.

    Raises:
        TargetError: there is none; says what there is. Or the whole interval of its reported loss is outside: no
            other is taken instead, or those rows would have chosen.
    """
    inside = [p for p in points if p.chosen_by.verdict(max_loss) in ("sure", "likely")]
    if inside:
        picked = max(inside, key=lambda p: p.measured.speedup)
        check_reported_loss(picked.difference, max_loss)
        return picked
    nearest = sorted(points, key=lambda p: p.chosen_by.loss_points)[:3]
    listed = "; ".join(
        f"{p.target.told(p.measured)} loses {p.chosen_by.loss_points:.2f} points "
        f"[{p.chosen_by.loss_interval[0]:.2f}, {p.chosen_by.loss_interval[1]:.2f}] ({p.folder})"
        for p in nearest
    )
    raise TargetError(
        f"no point loses at most {max_loss:g} points of {NAMES[points[0].metric]}: {listed}. Ask for less speed, "
        "allow a larger --max-loss, give more texts (--texts), or train longer (--mode max)"
    )


def check_targets(points: Sequence[Point], picked: Point, tolerance: float) -> None:
    """Say which points missed their targets when they were judged.

    Raises:
        TargetError: the one that is delivered did.
    """
    for point in points:
        if not point.met and point is not picked:
            say(f"{point.folder}: {point.target.miss(point.measured, tolerance)}")
    if not picked.met:
        raise TargetError(
            f"the bundle is written, but {picked.target.miss(picked.measured, tolerance)}; the same command measures "
            "it again, and with --remeasure it chooses a shape again"
        )


def summary(point: Point, max_loss: float) -> dict[str, Any]:
    """Return the keys that the verb prints for a point, and that the bundle's report.json holds.

    All of them are of the rows that are reported, but for the loss on the rows that choose.
    """
    chosen: dict[str, Any] = {} if point.choosing is None else {"choosing_loss_points": point.choosing.loss_points}
    interval = point.measured.interval
    return {
        "asked": point.target.told(), "target_met": point.met,
        point.metric: point.score, f"reference_{point.metric}": point.reference_score, "loss_is": point.metric,
        "loss_points": _rounded(point.difference.loss_points),
        "loss_interval": [_rounded(x) for x in point.difference.loss_interval],
        "loss_is_inside": point.sureness(max_loss), "max_loss": max_loss, "rows": point.difference.rows,
        "rows_to_be_sure": point.difference.rows_needed(max_loss), **chosen,
        "collapsed_labels": [one.model_dump() for one in point.collapsed],
        "speedup": {"ort_fp32": _rounded(point.measured.speedup)}, "reference": "ort_fp32",
        **({"speedup_interval": [_rounded(x) for x in interval]} if interval else {}),
        "p50_ms": {"ours": _rounded(point.measured.ours_ms), "ort_fp32": _rounded(point.measured.reference_ms)},
        **point.measured.load.model_dump(), "bytes": point.measured.bytes, "architecture": point.architecture,
        "embedding_bits": point.embedding_bits,
        **({"vocabulary": point.vocabulary} if point.vocabulary else {}),
    }  # fmt: skip


def write_family(
    points: Sequence[Point], picked: Point | None, max_loss: float, folder: Path, rows: dict[str, Any] | None = None
) -> None:
    """Write family.json, family.md and pareto.svg into `folder`, and each bundle's summary into its report.json.

    `rows` are further keys of each report: where its rows come from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "max_loss": max_loss, "picked": picked.id if picked else None, "points": [p.model_dump() for p in points]
    }  # fmt: skip
    write_text(folder / "family.json", json.dumps(document, indent=2) + "\n")
    write_text(folder / "family.md", family_table(points, picked, max_loss))
    draw_pareto(points, picked, max_loss, folder / "pareto.svg")
    for point in points:
        if not Path(point.folder).is_dir():
            raise CheckError(f"{point.folder} is gone: it was made by this run")
        write_text(Path(point.folder) / REPORT, json.dumps(summary(point, max_loss) | (rows or {}), indent=2) + "\n")


def family_table(points: Sequence[Point], picked: Point | None, max_loss: float) -> str:
    """Return a Markdown table with a line for each point."""
    name = NAMES[points[0].metric]
    lines = [
        f"| asked | speed-up | ms a text | MB | {name} | loss, points [95 %] | inside {max_loss:g} | heads/ffn |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for p in points:
        lost, (low, high) = p.difference.loss_points, p.difference.loss_interval
        mark = "**" if picked is not None and p.id == picked.id else ""
        lines.append(
            f"| {mark}{p.target.told()}{mark} | {p.measured.speedup:.2f}x | {p.measured.ours_ms:.2f} "
            f"| {p.measured.bytes / 1e6:.1f} | {told(p.metric, p.score, 2)} | {lost:+.2f} [{low:+.2f}, {high:+.2f}] "
            f"| {p.sureness(max_loss)} | {shape_in(p.architecture)} |"
        )
    return "\n".join(lines) + "\n"


def draw_pareto(points: Sequence[Point], picked: Point | None, max_loss: float, path: Path) -> None:
    """Draw accuracy, or hundredths of correlation, over milliseconds a text, with each point's interval."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "prunella", "font.size": 9}):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axis = figure.subplots()
        reference = points[0].reference_score * 100
        axis.axhline(
            reference, color="0.4", linewidth=1, label=f"unpruned, fp32: {points[0].measured.reference_ms:.2f} ms"
        )
        axis.axhline(
            reference - max_loss, color="0.4", linewidth=1, linestyle=":", label=f"{max_loss:g} points below"
        )
        for p in points:
            low, high = (reference - loss for loss in reversed(p.difference.loss_interval))
            value = reference - p.difference.loss_points
            chosen = picked is not None and p.id == picked.id
            axis.errorbar(
                p.measured.ours_ms, value, yerr=[[max(value - low, 0)], [max(high - value, 0)]], fmt="o", capsize=3,
                color="tab:red" if chosen else "tab:blue",
            )  # fmt: skip
            axis.annotate(
                f"{p.measured.speedup:.1f}x", (p.measured.ours_ms, value), (4, 4), textcoords="offset points"
            )
        axis.set_xlabel(f"milliseconds a text, {points[0].measured.load.told()} (median)")
        axis.set_ylabel(f"{NAMES[points[0].metric]} on the rows that are reported, hundredths")
        axis.grid(alpha=0.3)
        axis.legend()
        figure.savefig(path, metadata={"Date": None})


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
