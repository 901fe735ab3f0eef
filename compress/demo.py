"""run_demo(): the whole path on BBC News and MiniLM-L6, with settings that fit ten minutes on two cores."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.report import BenchConfig, Inputs, run_bench
from compress.analysis import AnalysisConfig
from compress.config import CompressConfig
from compress.distill import DistillConfig
from compress.family import Judge, Point, judged, summary
from compress.pipeline import compress_to, prepare
from compress.source import Inputs as Source
from compress.target import Target
from models.console import say
from models.data.builtin import MINILM
from models.data.texts import read_texts
from models.folder import REPORT
from models.stage import Made
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
MAX_LOSS = 1.0  # points, as `prunella compress` allows
BENCH = BenchConfig(texts=60, rounds=5, openings=4)


def run_demo(store: Path) -> dict[str, Any]:
    """Return what the demo's last line says; every finished stage in `store` is reused."""
    train, validation, test = (read_texts(f"builtin:bbc-news:{part}") for part in ("train", "validation", "test"))
    say(f"1/4 fine-tune MiniLM-L6 on {len(train)} BBC News articles")
    teacher = finetune(MINILM, Splits(train, validation), FINETUNE, store)
    say(f"2/4 prune to {TARGET.told()}, heal, quantize, export")
    made, judgement = compress_and_judge(
        Source(teacher.folder, train, validation, test, on_training_rows=False), store
    )
    bundle = made.folder
    say(f"3/4 report on {len(test)} test articles")
    out = store / f"report-{bundle.id}"
    written = bundle.path / REPORT
    if not (written.is_file() and (out / "report.html").is_file()):
        run_bench(Inputs(Bundle.open(bundle.path), teacher.folder, test, train), BENCH, store, out)
    say("4/4 publish")
    tag = publish(bundle.path)
    say((out / "report.md").read_text(encoding="utf-8"))
    return {
        "folder": str(bundle.path), "id": bundle.id, "reused": made.reused, "tag": tag,
        "report": str(out / "report.html"), "report_json": str(out / REPORT),
        **json.loads(written.read_text(encoding="utf-8")),
        "asked": judgement["asked"], "target_met": judgement["target_met"], "judgement": judgement,
    }  # fmt: skip


def compress_and_judge(inputs: Source, store: Path) -> tuple[Made, dict[str, Any]]:
    """Return the bundle, and what `prunella compress` says of it; a target that was missed is said each time."""
    ready = prepare(inputs, COMPRESS, store)

    def judge(made: Made) -> Point:
        path = store / f"judged-{made.folder.id}.json"
        if not path.is_file():
            Judge(ready).point(made.folder, TARGET, COMPRESS.tolerance).write(path)
        return Point.read(path)

    made, point = judged(lambda held: compress_to(TARGET, replace(ready, held=held), COMPRESS, store), judge)
    if not point.met:
        say(TARGET.miss(point.measured, COMPRESS.tolerance))
    return made, summary(point, MAX_LOSS)
