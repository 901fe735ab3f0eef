"""run_demo(): all steps on BBC News and MiniLM-L6, with settings that take ten minutes on two cores."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.report.build import BenchConfig, Inputs, run_bench
from compress.candidate_report import summary
from compress.candidates import Candidate, CandidateEvaluator
from compress.config import AnalysisConfig, CompressConfig, DistillConfig
from compress.inputs.inputs import CompressionInputs
from compress.pipeline import compress_to, compress_with_fp32_retry, prepare
from compress.search.search_to_target import Target
from models.data.builtin import MINILM
from models.data.texts import read_texts
from models.finetuning.finetune import FinetuneConfig, Splits, finetune
from models.messages import say
from models.store.folder import REPORT
from models.store.stage import StageResult
from models.train.loop import TrainingConfig
from service.inference.bundle import Bundle
from service.process.publish import publish

FINETUNE = FinetuneConfig(max_tokens=32, training=TrainingConfig(epochs=2, learning_rate=1e-4))
TARGET = Target(kind="speedup", value=4.0)
HEAL = DistillConfig().training.model_copy(update={"epochs": 4})
COMPRESS = CompressConfig(
    analysis=AnalysisConfig(texts=256, cost_texts=32), heal=DistillConfig(training=HEAL), tolerance=0.05
)
MAX_LOSS = 1.0  # points, the default of `prunella compress`
BENCH = BenchConfig(texts=60, rounds=5, openings=4)


def run_demo(store: Path) -> dict[str, Any]:
    """Return the keys of the demo's last output line; finished stages in `store` are reused."""
    train, validation, test = (read_texts(f"builtin:bbc-news:{part}") for part in ("train", "validation", "test"))
    say(f"1/4 fine-tune MiniLM-L6 on {len(train)} BBC News articles")
    teacher = finetune(MINILM, Splits(train, validation), FINETUNE, store)
    say(f"2/4 prune to {TARGET.describe()}, heal, quantize, export")
    result, evaluation = compress_and_evaluate(
        CompressionInputs(teacher.folder, train, validation, test, on_training_rows=False), store
    )
    bundle = result.folder
    say(f"3/4 report on {len(test)} test articles")
    out = store / f"report-{bundle.id}"
    report = bundle.path / REPORT
    if not (report.is_file() and (out / "report.html").is_file()):
        run_bench(Inputs(Bundle.open(bundle.path), teacher.folder, test, train), BENCH, store, out)
    say("4/4 publish")
    tag = publish(bundle.path)
    say((out / "report.md").read_text(encoding="utf-8"))
    return {
        "folder": str(bundle.path), "id": bundle.id, "reused": result.reused, "tag": tag,
        "report": str(out / "report.html"), "report_json": str(out / REPORT),
        **json.loads(report.read_text(encoding="utf-8")),
        "asked": evaluation["asked"], "target_met": evaluation["target_met"], "judgement": evaluation,
    }  # fmt: skip


def compress_and_evaluate(inputs: CompressionInputs, store: Path) -> tuple[StageResult, dict[str, Any]]:
    """Return the bundle and its summary, as `prunella compress` prints it; print a message if the target is missed.

    The evaluation is stored, so that a second run of the demo does not measure again.
    """
    context = prepare(inputs, COMPRESS, store)

    def evaluate(result: StageResult) -> Candidate:
        path = store / f"judged-{result.folder.id}.json"
        if not path.is_file():
            CandidateEvaluator(context).evaluate(result.folder, TARGET, COMPRESS.tolerance).write(path)
        return Candidate.read(path)

    result, candidate = compress_with_fp32_retry(
        lambda keep_fp32: compress_to(TARGET, replace(context, keep_fp32=keep_fp32), COMPRESS, store), evaluate
    )
    if not candidate.met:
        say(TARGET.miss(candidate.measured, COMPRESS.tolerance))
    return result, summary(candidate, MAX_LOSS)
