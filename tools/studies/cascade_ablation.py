"""`python -m tools.studies.cascade_ablation`: what features, targets and thresholds bring, and if the bound holds.

For a bundle and its data, gates are learned with single tokens, bigrams and trigrams; from labels, from the full
model's scores, from both, and with extra texts; and thresholds are found one for all labels or one for each. The
bound is checked in two ways. Splits: the rows of --validation and --test are divided again and again, one part
decides the threshold, and the loss is counted on the other; that loss varies by chance as well, so it is above the
limit more often than the true one. Draws: all rows together are taken for the whole population; rows that are drawn
from it, with replacement, decide the threshold, whose true loss is then known.

Example: python -m tools.studies.cascade_ablation BUNDLE --model FULL --train train.jsonl --validation
validation.jsonl --test test.jsonl --out docs/results/cascade/trec.json
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from bench.measure.accuracy.difference import compare
from compress.cascade.add_gate import CascadeModels
from compress.cascade.cascade_answers import FullModel, Student
from compress.cascade.learn_gate import LearnConfig, Learned, Lesson, answers, learn_gate
from compress.cascade.threshold import STEPS, Chosen, GateRows, Thresholds, choose_threshold, path_of
from models.data.columns import Columns
from models.data.texts import Texts, read_texts
from models.messages import say
from models.store.atomic import write_text
from models.store.folder import sha256_of
from service.model.bundle import Bundle

RIGHT = (0.99, 0.98, 0.97)  # shares of right answers, at which the share that a gate can answer is given
FEATURES: dict[str, dict[str, Any]] = {
    "tokens": {"bigrams": False}, "tokens and bigrams": {}, "tokens, bigrams and trigrams": {"trigrams": True}
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Study:
    """The rows and the answers that all gates share."""

    models: CascadeModels
    train: Texts
    extra: Texts | None
    judged: Texts  # the rows of --validation, then those of --test
    validation_rows: int
    tokens: list[list[int]]  # of the training texts, then of the extra ones
    scores: NDArray[np.float32]  # of the full model, or of the student without one
    student: NDArray[np.int64]  # labels of the judged rows
    full: NDArray[np.int64]
    judged_tokens: list[list[int]]

    def lesson(self, targets: str) -> Lesson:
        """Return what a gate learns from: "labels", "scores", "labels and scores", or "… and extra texts"."""
        task, train = self.models.student.task, len(self.train)
        truth = np.full(len(self.tokens), -1, dtype=np.int64)
        if targets.startswith("labels"):
            truth[:train] = self.train.targets(task)
        count = len(self.tokens) if targets.endswith("extra texts") else train
        scores = None if targets == "labels" else self.scores[:count]
        vocabulary = self.models.student.engine.tokenizer.vocabulary
        return Lesson(self.tokens[:count], truth[:count], scores, len(task.labels), vocabulary, train)

    def rows(self, learned: Learned, against: str) -> GateRows:
        """Return the answers of a gate to the judged rows, beside those of student and reference."""
        label, confidence = answers(learned.gate, self.judged_tokens)
        truth = np.asarray(self.judged.targets(self.models.student.task), dtype=np.int64)
        return GateRows(label, confidence, self.student, self.full if against == "model" else self.student, truth)

    def paths(self, learned: Learned, lesson: Lesson) -> dict[str, list[Thresholds]]:
        """Return the thresholds to test: one for all labels, and one for each."""
        truth = lesson.targets()[learned.held_out].argmax(axis=1)
        by_class = class_path_of(learned.label, learned.confidence, learned.label == truth, lesson.labels)
        return {"one": path_of(learned.confidence), "one for each label": by_class}


def class_path_of(
    label: NDArray[np.int64], confidence: NDArray[np.float64], right: NDArray[np.bool_], labels: int
) -> list[Thresholds]:
    """Return paths of one threshold for each label, so that all labels are about equally often right at each step.

    Each label's confidence is replaced by the share of right answers among its held-out texts of at least this
    confidence (one wrong answer is added, so that few texts count as unsure), and the steps go down these shares.
    """
    levels = 1 - np.geomspace(1e-3, 0.5, STEPS)
    least = np.full((STEPS, labels), 2.0)
    for k in range(labels):
        own = label == k
        order = np.argsort(-confidence[own], kind="stable")
        shares = np.cumsum(right[own][order]) / (np.arange(own.sum()) + 2)
        for step, level in enumerate(levels):
            enough = np.flatnonzero(shares >= level)
            if len(enough):
                least[step, k] = confidence[own][order][enough[-1]]
    return list(dict.fromkeys(tuple(row) for row in least.tolist()))


def open_study(models: CascadeModels, train: Texts, parts: tuple[Texts, Texts], extra: Texts | None) -> Study:
    """Compute the answers of the models to all rows; `parts` are the rows of --validation and --test."""
    student, task = models.student, models.student.task
    rows = [*train.rows, *(() if extra is None else extra.rows)]
    encoded = student.engine.tokenizer.encode(rows)
    first, second = parts
    judged = Texts(
        [*first.rows, *second.rows], [*first.require_labels(), *second.require_labels()], "both", task.kind
    )
    judged_encoded = student.engine.tokenizer.encode(judged.rows)
    labels = student.logits(judged_encoded).argmax(axis=1)
    full = labels if models.full is None else models.full.scores(judged.rows, models.store).argmax(axis=1)
    return Study(
        models, train, extra, judged, len(first), [one.ids for one in encoded], models.scores(rows, encoded), labels,
        full, [one.ids for one in judged_encoded],
    )  # fmt: skip


def subset(rows: GateRows, chosen: NDArray[np.int64]) -> GateRows:
    """Return some of the rows."""
    return GateRows(
        rows.label[chosen], rows.confidence[chosen], rows.student[chosen], rows.reference[chosen], rows.truth[chosen]
    )


def outcome(rows: GateRows, validation: int, path: list[Thresholds], max_loss: float) -> dict[str, Any]:
    """Return what the rows of --validation choose, and what that loses on the rows of --test."""
    index = np.arange(len(rows.truth))
    test = subset(rows, index[validation:])
    chosen = choose_threshold(subset(rows, index[:validation]), path, max_loss)
    if not isinstance(chosen, Chosen):
        return {"share": 0.0, "problem": chosen.problem}
    lost = compare(test.truth, test.reference, test.cascade(chosen.thresholds))
    return {
        "share": chosen.share, "bound_points": 100 * chosen.bound(),
        "test_share": float(test.answered(chosen.thresholds).mean()), "loss_points": lost.loss_points,
        "loss_interval": lost.loss_interval,
    }  # fmt: skip


def answerable(rows: GateRows) -> dict[str, float]:
    """Return the largest share of rows, the most confident first, of which RIGHT of the answers are right."""
    right = (rows.label == rows.truth)[np.argsort(-rows.confidence, kind="stable")]
    shares = np.cumsum(right) / np.arange(1, len(right) + 1)
    return {f"{goal:.0%}": float((np.flatnonzero(shares >= goal)[-1:] + 1).sum() / len(right)) for goal in RIGHT}


def splits(
    rows: GateRows, validation: int, path: list[Thresholds], max_loss: float, count: int
) -> dict[str, float | int]:
    """Divide the rows again `count` times; return how often the loss on the other rows is above `max_loss` points."""
    generator = np.random.default_rng(0)
    losses: list[float] = []
    shares: list[float] = []
    for _ in range(count):
        order = generator.permutation(len(rows.truth))
        chosen = choose_threshold(subset(rows, order[:validation]), path, max_loss)
        if isinstance(chosen, Chosen):
            others = subset(rows, order[validation:])
            lost, won = others.counts(chosen.thresholds)
            losses.append(100 * (lost - won) / len(others.truth))
            shares.append(float(others.answered(chosen.thresholds).mean()))
    return {
        "splits": count, "with_a_gate": len(losses), "above_max_loss": sum(loss > max_loss for loss in losses),
        "mean_loss_points": float(np.mean(losses)) if losses else 0.0,
        "mean_share": float(np.mean(shares)) if shares else 0.0,
    }  # fmt: skip


def draws(
    rows: GateRows, validation: int, path: list[Thresholds], max_loss: float, count: int
) -> dict[str, float | int]:
    """Draw `validation` rows, with replacement, `count` times; return how often the loss on all rows is too large."""
    generator = np.random.default_rng(1)
    losses: list[float] = []
    for _ in range(count):
        sample = generator.integers(0, len(rows.truth), validation)
        chosen = choose_threshold(subset(rows, sample), path, max_loss)
        if isinstance(chosen, Chosen):
            lost, won = rows.counts(chosen.thresholds)
            losses.append(100 * (lost - won) / len(rows.truth))
    return {
        "draws": count, "with_a_gate": len(losses), "above_max_loss": sum(loss > max_loss for loss in losses),
        "mean_loss_points": float(np.mean(losses)) if losses else 0.0,
    }  # fmt: skip


def run_study(study: Study, max_losses: tuple[float, ...], against: str, count: int, seed: int) -> dict[str, Any]:
    """Return the results of all gates: features with the best targets, then targets with bigrams."""
    sha256 = sha256_of(study.models.student.engine.bundle.folder.path / "tokenizer.json")
    known = (["labels", "labels and scores"] if study.train.labels is not None else []) + ["scores"]
    usual = known[-2] if len(known) > 1 else "scores"
    runs = [(name, usual) for name in FEATURES] + [("tokens and bigrams", name) for name in known if name != usual]
    if study.extra is not None:
        runs.append(("tokens and bigrams", f"{usual} and extra texts"))
    results = []
    for features, targets in runs:
        lesson = study.lesson(targets)
        learned = learn_gate(lesson, LearnConfig.model_validate(FEATURES[features] | {"seed": seed}), sha256)
        rows = study.rows(learned, against)
        test = subset(rows, np.arange(study.validation_rows, len(rows.truth)))
        result: dict[str, Any] = {
            "features": features, "targets": targets, "bytes": learned.gate.table.nbytes,
            "length_power": learned.gate.info.length_power, "accuracy": float((test.label == test.truth).mean()),
            "answerable": answerable(test),
        }  # fmt: skip
        for name, path in study.paths(learned, lesson).items():
            result[f"threshold: {name}"] = {
                f"{limit:g}": outcome(rows, study.validation_rows, path, limit) for limit in max_losses
            }
        if (features, targets) == ("tokens and bigrams", usual):
            path = path_of(learned.confidence)
            for name, check in (("splits", splits), ("draws", draws)):
                result[name] = {
                    f"{limit:g}": check(rows, study.validation_rows, path, limit, count) for limit in max_losses
                }
        say(f"{features}, {targets}: {result['accuracy']:.1%} of the test rows right")
        results.append(result)
    return {"against": against, "validation_rows": study.validation_rows, "rows": len(study.judged), "gates": results}


def main(  # noqa: PLR0913
    bundle: Path,
    train: Annotated[str, typer.Option(help="training texts")],
    validation: Annotated[str, typer.Option(help="labelled rows that decide thresholds")],
    test: Annotated[str, typer.Option(help="labelled rows on which losses are counted")],
    texts: Annotated[str | None, typer.Option(help="extra texts without labels")] = None,
    model: Annotated[Path | None, typer.Option(help="the full model; default: the student takes its place")] = None,
    max_loss: Annotated[str, typer.Option(help="points, separated by commas")] = "0.25,0.5,1",
    against: Annotated[str, typer.Option(help="student or model: what losses are counted against")] = "student",
    split_count: Annotated[int, typer.Option("--splits", help="splits, and draws, that check the bound")] = 100,
    seed: int = 0,
    store: Path = Path("store"),
    out: Annotated[Path | None, typer.Option(help="JSON file of the results; default: stdout only")] = None,
) -> None:
    """Compare gates for a bundle, and check the bound on random splits."""
    opened = Bundle.open(bundle)
    kind, columns = opened.task.kind, Columns()
    full = None if model is None else FullModel.open(model, opened.task, store)
    models = CascadeModels(Student(opened), full, store)
    parts = (read_texts(validation, columns, kind), read_texts(test, columns, kind))
    extra = None if texts is None else read_texts(texts, columns.unlabelled(), kind)
    study = open_study(models, read_texts(train, columns, kind), parts, extra)
    limits = tuple(float(one) for one in max_loss.split(","))
    result = {"bundle": opened.id, **run_study(study, limits, against, split_count, seed)}
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, json.dumps(result, indent=2) + "\n")
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    typer.run(main)
