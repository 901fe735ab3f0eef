"""run_demo(): all steps on film reviews and MiniLM-L6, with settings that are chosen to take minutes on two cores."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.engines.available import Inputs
from bench.measure.accuracy.task_metric import format_metric
from bench.measure.latency.timing import machine_card
from bench.report.bench_config import BenchConfig
from bench.report.build import run_bench
from bench.report.report_schema import Report
from compress.candidate_report import summary
from compress.candidates import Candidate, CandidateEvaluator
from compress.cascade.add_gate import CascadeConfig, CascadeTexts, add_gate
from compress.config import AnalysisConfig, CompressConfig, DistillConfig
from compress.inputs.inputs import CompressionInputs
from compress.pipeline import compress_to, compress_with_fp32_retry, prepare
from compress.search.latency_meter import Measured, timing_environment
from compress.search.search_to_target import Target
from models.data.builtin import MINILM
from models.data.split import split_rows
from models.data.texts import Texts, read_texts
from models.errors import CheckError
from models.finetuning.finetune import FinetuneConfig, Splits, finetune
from models.messages import say
from models.store.atomic import write_text
from models.store.folder import REPORT, ModelFolder, identity
from models.store.stage import StageResult
from models.train.loop import TrainingConfig
from service.model.bundle import Bundle
from service.process.publish import publish

FINETUNE = FinetuneConfig(training=TrainingConfig(epochs=1, learning_rate=1e-4))
HEALING_ROWS = 4000  # of the training rows
HEAL = DistillConfig().training.model_copy(update={"epochs": 2})
COMPRESS = CompressConfig(
    analysis=AnalysisConfig(texts=256, cost_texts=16), heal=DistillConfig(training=HEAL), tolerance=0.05
)
MAX_LOSS = 1.0  # points, the default of `prunella compress`
GATE = CascadeConfig(max_loss=1.0)
THRESHOLD_SHARE = 0.7  # of the validation rows: the gate's threshold needs more of them than a choice of shapes
BENCH = BenchConfig(batches=(1,), texts=60, rounds=5, openings=6)


def run_demo(store: Path, speedup: float) -> dict[str, Any]:
    """Return the keys of the demo's last output line; finished stages in `store` are reused.

    Raises:
        CheckError: the compressed model or its reference did not run.
    """
    target = Target(kind="speedup", value=speedup)
    train, validation, test = (read_texts(f"builtin:film-reviews:{part}") for part in ("train", "validation", "test"))
    say(f"1/5 fine-tune MiniLM-L6 on {len(train)} sentences of film reviews, positive or negative")
    teacher = finetune(MINILM, Splits(train, validation), FINETUNE, store)
    parts = split_rows(validation.require_labels(), "single", THRESHOLD_SHARE, seed=0)
    choosing, threshold = (validation.take(rows) for rows in parts)
    say(f"2/5 prune to {target.describe()}, heal, quantize, export")
    healing = train.take(range(HEALING_ROWS))
    inputs = CompressionInputs(teacher.folder, healing, choosing, test, on_training_rows=False)
    result, judgement = compress_and_evaluate(inputs, target, store)
    say(f"3/5 learn a gate for easy sentences; {len(threshold)} other ones decide which it answers")
    bundle = with_gate(result.folder, CascadeTexts(train, threshold), teacher.folder.path, store)
    say(f"4/5 report on {len(test)} test sentences")
    out = store / f"report-{bundle.id}"
    if not is_measured(bundle.path, out, test):
        run_bench(Inputs(Bundle.open(bundle.path), teacher.folder, test, train), BENCH, store, out)
    say("5/5 publish")
    tag = publish(bundle.path)
    return {
        "folder": str(bundle.path), "id": bundle.id, "reused": result.reused, "tag": tag,
        "report": str(out / "report.html"), "report_json": str(out / REPORT),
        **json.loads((bundle.path / REPORT).read_text(encoding="utf-8")), **inputs.summary(),
        **outcome(Report.read(out / REPORT), target), "judgement": judgement,
    }  # fmt: skip


def is_measured(bundle: Path, out: Path, test: Texts) -> bool:
    """Whether a folder has the whole report of the bundle on these rows and on a processor like this one."""
    if not all(path.is_file() for path in (bundle / REPORT, out / REPORT, out / "report.html")):
        return False
    report, card = Report.read(out / REPORT), machine_card()
    same_machine = all(report.machine.get(key) == card[key] for key in ("processor", "flags"))
    return same_machine and report.data_sha256 == test.sha256


def with_gate(student: ModelFolder, texts: CascadeTexts, model: Path, store: Path) -> ModelFolder:
    """Return the bundle with a gate, or without one if no threshold keeps the loss that is allowed."""
    cascade = add_gate(student, texts, model, GATE, store, measure=False)  # the report measures it
    return student if cascade.result is None else cascade.result.folder


def outcome(report: Report, target: Target) -> dict[str, Any]:
    """Return what a report says in one sentence, and in another one whether its speed-up misses the target.

    The measurement of the report decides, because it is the one that the reader sees; the one at the end of the
    compression is the key `judgement` of the demo's output.

    Raises:
        CheckError: the compressed model or its reference did not run.
    """
    ours, openings = report.engine("ours"), report.openings
    if ours is None or ours.difference is None or ours.bytes is None or openings is None:
        raise CheckError("the compressed model or ort_fp32 did not run: the report says why")
    reference_ms, ours_ms = (float(np.exp(np.log(ms).mean())) for ms in (openings.reference_ms, openings.ours_ms))
    measured = Measured(
        bytes=ours.bytes, ours_ms=ours_ms, reference_ms=reference_ms, speedup=openings.speedup,
        interval=openings.interval,
    )  # fmt: skip
    is_cut = report.architecture.layers != report.reference_architecture.layers
    met = target.is_met(measured, COMPRESS.tolerance, is_cut)
    low, high = ours.difference.loss_interval
    headline = (
        f"{openings.speedup:.1f}x faster than fp32 ONNX Runtime ({reference_ms:.1f} ms to {ours_ms:.1f} ms a text), "
        f"{ours.difference.loss_points:z.1f} points of accuracy lost [{low:z.1f}, {high:z.1f}], "
        f"{ours.bytes / 1e6:.0f} MB"
    )
    return {
        "asked": target.describe(), "target_met": met, "headline": headline, "gated": _gated(report),
        "accuracies": _accuracies(report),
        "missed": None if met else target.miss(measured, COMPRESS.tolerance),
    }  # fmt: skip


def _gated(report: Report) -> str | None:
    """Return what the gate gains and costs, in one sentence; None if there is none."""
    cascade = report.cascade
    if cascade is None or cascade.added is None or cascade.speedup_mean is None:
        return None
    share, (low, high) = cascade.stages[0].share, cascade.added.loss_interval
    return (
        f"with its gate, which answers {share:.0%} of the sentences: {cascade.speedup_mean:.1f}x by the mean time of "
        f"a text, {cascade.added.loss_points:z.1f} points more lost [{low:z.1f}, {high:z.1f}]"
    )


def _accuracies(report: Report) -> str:
    scores = {e.name: format_metric(report.metric, e.score.value) for e in report.engines if e.score}
    names = {"ours": "compressed", "ort_fp32": "full model", "tfidf": "TF-IDF"}
    compared = ", ".join(f"{name} {scores[engine]}" for engine, name in names.items() if engine in scores)
    return f"accuracy on {report.rows} test rows: {compared}"


def judgement_name(bundle: ModelFolder, target: Target, inputs: CompressionInputs) -> str:
    """Return the name of the file with the evaluation of a bundle, which is one of this machine and of these rows."""
    settings = {
        "target": target.model_dump(), "tolerance": COMPRESS.tolerance, "rows": inputs.roles.everything.sha256,
        **timing_environment(COMPRESS.load),
    }  # fmt: skip
    return f"judged-{bundle.id}-{identity([bundle.manifest.digest()], 'judged', 1, settings)}.json"


def compress_and_evaluate(
    inputs: CompressionInputs, target: Target, store: Path
) -> tuple[StageResult, dict[str, Any]]:
    """Return the bundle and its summary, as `prunella compress` prints it.

    The evaluation is stored, so that a second run of the demo does not measure again.
    """
    context = prepare(inputs, COMPRESS, store)

    def evaluate(result: StageResult) -> Candidate:
        path = store / judgement_name(result.folder, target, inputs)
        if not path.is_file():
            candidate = CandidateEvaluator(context).evaluate(result.folder, target, COMPRESS.tolerance)
            write_text(path, candidate.model_dump_json(indent=2) + "\n")
        return Candidate.read(path)

    result, candidate = compress_with_fp32_retry(
        lambda keep_fp32: compress_to(target, replace(context, keep_fp32=keep_fp32), COMPRESS, store), evaluate
    )
    return result, summary(candidate, MAX_LOSS)
