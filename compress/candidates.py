"""CandidateEvaluator and select_best(): evaluate the bundle of each target, and select the fastest within `max_loss`.

One set of labelled rows is used to select, another one to report the loss. If there are too few rows for both
(`CompressionInputs.test` is None), the same rows are used for both, and the summary says so.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from bench.measure.accuracy.difference import Answers, Difference, Metric
from bench.measure.accuracy.evaluate import bundle_logits
from bench.measure.accuracy.label_recall import LabelRecall
from bench.measure.accuracy.task_metric import NAMES, choose_metric, metric_value, paired_loss
from compress.context import CompressionContext
from compress.guards import check_reported_loss, name_collapsed, refuse_uninformative
from compress.make_bundle import fallback_sublayers, int8_precision
from compress.search.latency_meter import Measured, open_latency_meter
from compress.search.search_to_target import Target
from export.graph_precision import EmbeddingBits
from models import task as task_file
from models.checkpoint import read_architecture
from models.errors import FallBackError, TargetError
from models.messages import say
from models.schema import Record
from models.store.folder import REPORT, ModelFolder
from models.task import Task
from service.model.bundle import Bundle

MUCH_SLOWER = 0.5  # a bundle for a target size is refused if its speed-up is certainly below this


class TeacherLoss(Record):
    """How a bundle compares with a teacher, on the reported rows."""

    teacher: str
    models: int = Field(description="several: an ensemble of seeds")
    score: float | None = Field(None, description="of the teacher; None: it has no answers to these rows")
    difference: Difference | None = None


class Candidate(Record):
    """A bundle and its evaluation."""

    target: Target
    folder: str
    id: str
    architecture: str
    measured: Measured
    score: float  # of `metric`, on the reported rows
    reference_score: float
    difference: Difference  # on the reported rows
    choosing: Difference | None = None  # on the rows that select; None: they are the reported rows
    collapsed: tuple[LabelRecall, ...] = ()  # labels that lost more than half of their recall
    met: bool = True  # whether the final measurement is within the tolerance of the target
    embedding_bits: EmbeddingBits = 8  # of the token table
    vocabulary: dict[str, int | bool] | None = None  # counts of tokens and of changed texts, see `trim`
    teachers: tuple[TeacherLoss, ...] = ()

    @property
    def metric(self) -> Metric:
        """The metric of `score`."""
        return self.difference.metric

    @property
    def selection_difference(self) -> Difference:
        """The difference on the rows that select."""
        return self.difference if self.choosing is None else self.choosing

    def verdict(self, max_loss: float) -> str:
        """Return whether the reported loss is within `max_loss`, and how certainly: see `Difference.verdict`."""
        return self.difference.verdict(max_loss)


class Comparison(Record):
    """Scores of a bundle and of the model that it was made from, on the same rows."""

    score: float
    reference_score: float
    difference: Difference


class CandidateEvaluator:
    """Compares bundles with `CompressionInputs.compared`: latency, and answers to labelled rows.

    The answers are compared with those of teachers too.
    """

    def __init__(self, context: CompressionContext, metric: str | None = None) -> None:
        inputs, path = context.inputs, context.inputs.compared.path
        task = Task.read(path / task_file.FILE)
        self._task, self._metric = task, choose_metric(task.kind, metric)
        self._selecting = len(inputs.validation)  # number of rows that select
        labelled = inputs.roles.everything  # the rows that select, then the reported rows
        self._rows, self._truth = labelled.rows, labelled.targets(task)
        self._reference = task.decide(task.scores(inputs.logits(inputs.compared)))
        self._base = context.base.path
        self._own_task = Task.read(self._base / task_file.FILE)  # its thresholds may be others
        self._guidance = context.guidance
        trimmed = context.base.id != inputs.source.id
        self._vocabulary = json.loads((self._base / REPORT).read_text(encoding="utf-8")) if trimmed else None
        self._meter = open_latency_meter(inputs, context.base, context.reference, context.load)

    def evaluate(self, folder: ModelFolder, target: Target, tolerance: float) -> Candidate:
        """Evaluate a bundle.

        A bundle that misses a target of speed is no error: `Candidate.met` is False.

        Raises:
            TargetError: the bundle is slower than the model it was made from, misses its target of size, or its
                answers hardly depend on the text (`refuse_uninformative`).
            FallBackError: it misses its target after sublayers went back to fp32, which the search did not plan.
        """
        bundle = Bundle.open(folder.path)
        variant = bundle.info.default["cpu"]
        answers = self._own_task.decide(self._own_task.scores(bundle_logits(folder.path, self._rows)))
        graph, size = bundle.onnx_path(variant), bundle.served_bytes(variant)
        measured = self._meter.time(graph, size, "judgement")
        refuse_slow(folder.path, target, measured)
        met = target.is_met(measured, tolerance, bundle.architecture != read_architecture(self._base))
        if not met:
            message = f"{folder.path}: {target.miss(measured, tolerance)}"
            if sublayers := fallback_sublayers(folder.path):
                message += f": {', '.join(sublayers)} went back to fp32 after the search"
                raise FallBackError(message, sublayers)
            if target.kind == "size_mb":
                raise TargetError(f"{message}: allow a larger --tolerance")
        precision = int8_precision(folder.path)
        refuse_uninformative(self._task, self._truth, self._reference, answers)
        selecting, others = slice(0, self._selecting), slice(self._selecting, None)
        same = self._selecting == len(self._rows)
        selection = self._compare(answers, selecting)
        judged = selecting if same else others
        reported = self._compare(answers, judged)
        collapsed = name_collapsed(self._task, self._truth, self._reference, answers)
        return Candidate(
            target=target, folder=str(folder.path), id=folder.id, architecture=bundle.architecture.summary(),
            measured=measured, **{key: getattr(reported, key) for key in Comparison.model_fields},
            choosing=None if same else selection.difference, collapsed=collapsed, met=met,
            vocabulary=self._vocabulary, embedding_bits=8 if precision is None else precision.embedding_bits,
            teachers=self._compare_with_teachers(answers, judged),
        )  # fmt: skip

    def _compare_with_teachers(self, answers: Answers, rows: slice) -> tuple[TeacherLoss, ...]:
        """Return the loss against each teacher, whose thresholds for several labels are 0.5."""
        if self._guidance is None:
            return ()
        kind, metric, truth = self._task.kind, self._metric, self._truth[rows]
        task, losses = self._task.model_copy(update={"thresholds": None}), []
        for name, models, scores in self._guidance.scores_by_teacher(task, self._rows[rows]):
            loss = TeacherLoss(teacher=name, models=models)
            if scores is not None:
                theirs = task.decide(scores)
                loss = TeacherLoss(
                    teacher=name, models=models, score=metric_value(kind, truth, theirs, metric),
                    difference=paired_loss(kind, truth, theirs, answers[rows], metric),
                )  # fmt: skip
            losses.append(loss)
        return tuple(losses)

    def _compare(self, answers: Answers, rows: slice) -> Comparison:
        kind, metric, truth, reference = self._task.kind, self._metric, self._truth[rows], self._reference[rows]
        return Comparison(
            score=metric_value(kind, truth, answers[rows], metric),
            reference_score=metric_value(kind, truth, reference, metric),
            difference=paired_loss(kind, truth, reference, answers[rows], metric),
        )  # fmt: skip


def refuse_slow(path: Path, target: Target, measured: Measured) -> None:
    """Reject a bundle that is certainly slower than the model it was made from; for a target of size, only warn.

    Raises:
        TargetError: it is certainly slower; for a target of size, its speed-up is certainly below MUCH_SLOWER.
    """
    highest = measured.interval[1] if measured.interval else measured.speedup
    message = f"{path} is {measured.speedup:.2f}x as fast as the model it came from"
    if highest <= (1 if target.timed else MUCH_SLOWER):
        raise TargetError(f"{message}: not shipped; ask for {'more speed' if target.timed else 'fewer megabytes'}")
    if highest <= 1:
        say(f"WARNING: {message}: int8 is not faster on this processor, and the target is only a size")


def select_best(candidates: Sequence[Candidate], max_loss: float) -> Candidate:
    """Return the fastest candidate that loses at most `max_loss` points on the rows that select.

    Raises:
        TargetError: there is none; the message names the nearest. Or the whole interval of its reported loss exceeds
            `max_loss`: no other candidate is returned instead, because then the reported rows would select.
    """
    inside = [c for c in candidates if c.selection_difference.verdict(max_loss) in ("sure", "likely")]
    if inside:
        best = max(inside, key=lambda c: c.measured.speedup)
        check_reported_loss(best.difference, max_loss)
        return best
    nearest = sorted(candidates, key=lambda c: c.selection_difference.loss_points)[:3]
    losses = "; ".join(
        f"{c.target.describe(c.measured)} loses {c.selection_difference.loss_points:.2f} points "
        f"[{c.selection_difference.loss_interval[0]:.2f}, {c.selection_difference.loss_interval[1]:.2f}] ({c.folder})"
        for c in nearest
    )
    raise TargetError(
        f"no point loses at most {max_loss:g} points of {NAMES[candidates[0].metric]}: {losses}. Ask for less speed, "
        "allow a larger --max-loss, give more texts (--texts), or train longer (--mode max)"
    )


def missed_target(candidates: Sequence[Candidate], best: Candidate, tolerance: float) -> str | None:
    """Return the message for a `best` that misses its target, None if it is met; print those of the others."""
    for candidate in candidates:
        if not candidate.met and candidate is not best:
            say(f"{candidate.folder}: {candidate.target.miss(candidate.measured, tolerance)}")
    if best.met:
        return None
    return (
        f"the bundle is written, but {best.target.miss(best.measured, tolerance)}. Run the same command again on an "
        "idle machine to measure it again, or with --remeasure to search again"
    )
