"""distil(): make a small model of a large one; choose_way(): compare cutting the large one with distilling it.

`compress BIG --student ENCODER` fine-tunes a small encoder on the answers of BIG, and cuts the result. Speed and loss
are measured against BIG in both ways, so that they can be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.measure.accuracy.task_metric import NAMES
from compress.candidate_report import summary
from compress.candidates import Candidate
from compress.inputs.inputs import CompressionInputs
from models import task as task_file
from models.checkpoint import read_architecture
from models.data.builtin import MINILM
from models.data.texts import Texts
from models.errors import TargetError
from models.finetuning.finetune import FinetuneConfig, finetune
from models.finetuning.finetune_config import Teachers, TeachingConfig
from models.messages import say
from models.store.folder import ModelFolder
from models.store.stage import StageResult
from models.task import Task
from models.teachers.answers import answers_of
from models.teachers.teacher import open_teacher
from models.train.starting_point import resolve_encoder
from models.train.training_config import TrainingConfig

AUTO = "auto"  # value of --student
CUT = "cut"  # name of the way without a student
SMALL = MINILM  # the student of AUTO


def distil(  # noqa: PLR0913 (what is learned, from whom, for how long)
    inputs: CompressionInputs, encoder: str, named: Teachers, minutes: float | None, seed: int, store: Path
) -> CompressionInputs:
    """Fine-tune a small encoder on the answers of teachers; return the inputs with it in place of the large model.

    Training rows without labels get the large model's decisions as labels, which only choose the form of the output:
    the answers then have the whole weight.

    Args:
        inputs: the large model and the rows.
        encoder: a folder, or the name of a built-in encoder.
        named: the teachers; usually the large model.
        minutes: limit on the training time.
        seed: of the training.
        store: folder of finished stages.

    Raises:
        InputError: the encoder does not fit, or a teacher does not agree with the labels.
    """
    big, folder = Task.read(inputs.source.path / task_file.FILE), resolve_encoder(encoder, store)
    splits = inputs.splits
    if splits.texts is not None:
        splits = replace(splits, texts=None).with_texts(splits.texts)
    weight = TeachingConfig().weight
    if splits.train.labels is None:
        splits, weight = replace(splits, train=_labelled(inputs.source, big, splits.train, inputs, store)), 1.0
    splits = replace(splits, teachers=named, labels=big.labels)
    config = FinetuneConfig(
        max_tokens=min(big.max_tokens, read_architecture(folder).positions), automatic=True, minutes=minutes,
        teaching=TeachingConfig(weight=weight), training=TrainingConfig(seed=seed, sparse_embeddings=True),
    )  # fmt: skip
    say(f"{encoder} learns the answers of {', '.join(map(str, named.all))} to {len(splits.training_rows):,} texts")
    student = finetune(encoder, replace(splits, test=None), config, store).folder
    train, texts = splits.train, splits.texts
    return replace(
        inputs, source=student, baseline=inputs.source, train=train if texts is None else train.joined(texts),
        parts=(train,) if texts is None else (train, texts),
    )  # fmt: skip


def _labelled(model: ModelFolder, task: Task, train: Texts, inputs: CompressionInputs, store: Path) -> Texts:
    """Return the training rows with the model's decisions as labels."""
    rows = sorted({*train.rows, *inputs.validation.rows})  # the rows that teachers answer: computed once
    (teacher,) = open_teacher(model.path, task.pair)
    decided = dict(zip(rows, task.decide(task.scores(answers_of(teacher, rows, store))), strict=True))
    labels: list[Any] = []
    for row in train.rows:
        if task.kind == "single":
            labels.append(task.labels[int(decided[row])])
        elif task.kind == "multi":
            labels.append(tuple(name for name, on in zip(task.labels, decided[row], strict=True) if on))
        else:
            labels.append(float(decided[row]))
    return Texts(train.rows, labels, train.source, train.kind)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one way gave: bundles by target, and why targets were not reached."""

    way: str  # CUT, or the name of the encoder that was distilled into
    results: Sequence[tuple[StageResult, Candidate]] = ()
    unreached: dict[str, str] = field(default_factory=dict)
    distilled: str | None = None  # folder of the small model before it is cut


def choose_way(
    outcomes: Sequence[Outcome], max_loss: float
) -> tuple[list[tuple[StageResult, Candidate]], dict[str, str], dict[str, Any]]:
    """Return the better bundle for each target, the unreached targets, and a report of the choice.

    Better is, in this order: within the tolerance of the target, within `max_loss` on the rows that choose, less loss
    on these rows, fewer bytes.

    Raises:
        TargetError: no way reaches any target.
    """
    chosen, entries = [], []
    unreached: dict[str, str] = {}
    targets = dict.fromkeys(c.target.describe() for o in outcomes for _, c in o.results)
    for target in targets:
        candidates = [(o, r, c) for o in outcomes for r, c in o.results if c.target.describe() == target]
        best, result, candidate = min(candidates, key=lambda one: _rank(one[2], max_loss))
        chosen.append((result, candidate))
        others = [_sentence(o.way, c) for o, _, c in candidates if o is not best]
        others += [f"{o.way}: {o.unreached[target]}" for o in outcomes if target in o.unreached]
        reason = "; ".join([_sentence(best.way, candidate), *others])
        if len(outcomes) > 1:
            say(f"--student auto takes '{best.way}' for {target}: {reason}")
        ways = [{"way": o.way, **_figures(c, max_loss)} for o, _, c in candidates]
        ways += [{"way": o.way, "failed": o.unreached[target]} for o in outcomes if target in o.unreached]
        entries.append({"target": target, "taken": best.way, "reason": reason, "ways": ways})
    for outcome in outcomes:
        unreached |= {name: text for name, text in outcome.unreached.items() if name not in targets}
    if not chosen:
        raise TargetError("; ".join(f"{o.way}: {text}" for o in outcomes for text in o.unreached.values()))
    distilled = {o.way: o.distilled for o in outcomes if o.distilled}
    return chosen, unreached, {"choices": entries, "distilled": distilled}


def _rank(candidate: Candidate, max_loss: float) -> tuple[bool, bool, float, int]:
    loss = candidate.selection_difference
    inside = loss.verdict(max_loss) in ("sure", "likely")
    return not candidate.met, not inside, loss.loss_points, candidate.measured.bytes


def _sentence(way: str, candidate: Candidate) -> str:
    loss = candidate.selection_difference
    return (
        f"{way}: {candidate.measured.speedup:.2f}x, {loss.loss_points:.2f} points of {NAMES[loss.metric]} lost on "
        f"the {loss.rows} rows that choose"
    )


def _figures(candidate: Candidate, max_loss: float) -> dict[str, Any]:
    keys = ("speedup", "speedup_interval", "loss_points", "loss_interval", "target_met", "bytes", "architecture")
    figures = {name: value for name, value in summary(candidate, max_loss).items() if name in keys}
    return figures | {
        "choosing_loss_points": candidate.selection_difference.loss_points, "folder": candidate.folder
    }  # fmt: skip
