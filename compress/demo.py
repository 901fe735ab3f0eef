"""run_demo(): the whole path on BBC News and MiniLM-L6, with settings that fit ten minutes on two cores."""

import json
from pathlib import Path
from typing import Any

from bench.report import BenchConfig, Inputs, run_bench
from compress.analysis import AnalysisConfig
from compress.config import CompressConfig
from compress.distill import DistillConfig
from compress.pipeline import compress_to, prepare
from compress.source import Inputs as Source
from compress.target import Target
from models.console import say
from models.data.builtin import MINILM
from models.data.texts import read_texts
from models.folder import REPORT
from models.train.finetune import FinetuneConfig, Splits, finetune
from models.train.loop import TrainingConfig
from service.bundle import Bundle
from service.publish import publish

FINETUNE = FinetuneConfig(max_tokens=32, training=TrainingConfig(epochs=2, learning_rate=1e-4))
TARGET = Target(kind="speedup", value=4.0)
HEAL = DistillConfig().training.model_copy(update={"epochs": 4})
COMPRESS = CompressConfig(
    analysis=AnalysisConfig(texts=256, cost_texts=32), heal=DistillConfig(training=HEAL), tolerance=0.05
)
BENCH = BenchConfig(texts=60, rounds=5, openings=4)


def run_demo(store: Path) -> dict[str, Any]:
    """Return what the demo's last line says; every finished stage in `store` is reused."""
    train, validation, test = (read_texts(f"builtin:bbc-news:{part}") for part in ("train", "validation", "test"))
    say(f"1/4 fine-tune MiniLM-L6 on {len(train)} BBC News articles")
    teacher = finetune(MINILM, Splits(train, validation), FINETUNE, store)
    say(f"2/4 prune to {TARGET.told()}, heal, quantize, export")
    made = compress_to(TARGET, prepare(Source(teacher.folder, train, validation), COMPRESS, store), COMPRESS, store)
    bundle = made.folder
    say(f"3/4 report on {len(test)} test articles")
    out = store / f"report-{bundle.id}"
    summary = bundle.path / REPORT
    if not (summary.is_file() and (out / "report.html").is_file()):
        run_bench(Inputs(Bundle.open(bundle.path), teacher.folder, test, train), BENCH, store, out)
    say("4/4 publish")
    tag = publish(bundle.path)
    say((out / "report.md").read_text(encoding="utf-8"))
    return {
        "folder": str(bundle.path), "id": bundle.id, "reused": made.reused, "tag": tag,
        "report": str(out / "report.html"), "report_json": str(out / REPORT),
        **json.loads(summary.read_text(encoding="utf-8")),
    }  # fmt: skip
