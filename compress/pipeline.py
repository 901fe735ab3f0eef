"""compress(): a fine-tuned classifier and texts → the smaller, healed, quantized bundle that meets a speed-up."""

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from bench.timing import interleave
from compress.bundle import make_bundle
from compress.distill import DistillConfig, distill
from compress.importance import Importance, measure
from compress.latency import LatencyTable, measure_latency
from compress.quantize import quantize_dynamic_int8
from compress.search import choose
from compress.surgery import cut, kept_units
from export.onnx import to_onnx
from models import task as task_file
from models import tokens
from models.architecture import Architecture
from models.checkpoint import WEIGHTS, load_checkpoint, read_architecture, save_checkpoint
from models.classifier import Classifier
from models.data.texts import Texts
from models.errors import FolderError, InputError, NoEffectError, TargetError
from models.folder import REPORT, ModelFolder
from models.record import Record
from models.stage import Made, Stage, run_stage
from models.task import Task
from models.tokens import TokenBatch, Tokenizer
from service.engine import run_session
from service.runtime import open_session

VERSION = 1
CORRECTIONS = 6


class CompressConfig(Record):
    """Settings of compression."""

    speedup: float = Field(4.0, gt=1, description="speed-up over the unpruned model in fp32 on ONNX Runtime")
    tolerance: float = Field(0.05, gt=0, lt=1, description="share by which the measured speed-up may miss the asked")
    importance_rows: int = Field(256, ge=8, description="training texts on which heads and neurons are judged")
    heal: DistillConfig = DistillConfig()


@dataclass(frozen=True, slots=True)
class Compressed:
    """The bundle, and the folders on the way to it."""

    bundle: Made
    pruned: Made
    healed: Made


def compress(source: ModelFolder, texts: Texts, config: CompressConfig, store: Path) -> Compressed:
    """Prune, heal and quantize the classifier in `source`; `texts` need no labels, the source model gives them.

    Raises:
        TargetError: no shape reaches the asked speed-up on this machine.
    """
    asked = Task.read(source.path / task_file.FILE)
    _check_possible(source, asked, texts)
    settings = {"texts": texts.sha256, **config.model_dump(mode="json", exclude={"heal"})}
    pruned = run_stage(Stage("prune", VERSION, settings), [source], store, lambda t: _prune(source, texts, config, t))
    heal = {"texts": texts.sha256, **config.heal.model_dump(mode="json")}
    healed = run_stage(
        Stage("heal", VERSION, heal),
        [pruned.folder, source],
        store,
        lambda target: _heal(pruned.folder, source, texts, config, target),
    )
    return Compressed(make_bundle(healed.folder, texts, "dynamic", store), pruned, healed)


def _check_possible(source: ModelFolder, asked: Task, texts: Texts) -> None:
    """Refuse, before any long work, what the later stages would refuse."""
    if not (source.path / WEIGHTS).is_file():
        stage = source.manifest.lineage[-1].stage
        raise FolderError(
            f"{source.path} is the result of '{stage}': wanted a classifier folder, as finetune makes it"
        )
    if texts.pair != asked.pair:
        raise InputError(f"{texts.source} has {'pairs' if texts.pair else 'single texts'}, the model wants the other")
    if asked.kind != "single":
        raise InputError(f"{source.path} is a {asked.kind} model: only single-label models are compressed so far")
    if read_architecture(source.path).family == "modernbert":
        raise InputError(f"{source.path} is a modernbert model, which cannot be exported, and so not compressed, yet")


def _prune(source: ModelFolder, texts: Texts, config: CompressConfig, target: Path) -> None:
    asked = Task.read(source.path / task_file.FILE)
    tokenizer = Tokenizer.open(source.path, asked.max_tokens)
    model = load_checkpoint(source.path)
    encoded = tokenizer.encode(texts.rows)
    chosen = np.random.default_rng(0).permutation(len(encoded))[: config.importance_rows]
    importance = measure(model, [encoded[i] for i in chosen], tokenizer)
    lengths = [int(q) for q in np.quantile([len(e.ids) for e in encoded], [0.1, 0.5, 0.9])]
    table = measure_latency(model.architecture, lengths)
    samples = [tokenizer.pad([encoded[i]]) for i in chosen[:12]]
    smaller, speedup = _close_the_loop(model, importance, table, samples, config)
    save_checkpoint(smaller, asked, target)
    _copy_texts(source, asked, target)
    plan = {
        "table": table.model_dump(), "lengths": lengths, "asked_speedup": config.speedup,
        "measured_speedup": speedup, "architecture": smaller.architecture.summary(),
        "importance_heads": [h.tolist() for h in importance.heads],
        "without_attention": importance.without_attention.tolist(), "without_ffn": importance.without_ffn.tolist(),
    }  # fmt: skip
    (target / "plan.json").write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")


def _close_the_loop(
    model: Classifier, importance: Importance, table: LatencyTable, samples: list[TokenBatch], config: CompressConfig
) -> tuple[Classifier, float]:
    """Choose, build, time, correct the budget by the miss, until the measured speed-up is the asked one."""
    wanted, full = config.speedup, model.architecture
    least, most = wanted * (1 - config.tolerance), wanted * (1 + config.tolerance)
    with tempfile.TemporaryDirectory() as scratch:
        reference = Path(scratch) / "reference.onnx"
        to_onnx(model, reference, pair=False)
        budget = table.seconds(full) / wanted * 2  # only a start: int8 halves; the loop corrects it
        tried: dict[Architecture, float] = {}
        for _ in range(CORRECTIONS):
            shape = choose(full, importance, table, budget)
            if shape not in tried:
                smaller = model if shape == full else cut(model, *kept_units(importance, shape))
                tried[shape] = _speedup(smaller, reference, samples, Path(scratch))
            if least <= tried[shape] <= most:
                break
            budget *= tried[shape] / wanted
    reached = {shape: speed for shape, speed in tried.items() if speed >= least}
    if not reached:
        nearest = max(tried.values())
        raise TargetError(f"{wanted:g}x was asked for, the nearest measured is {nearest:.2f}x: ask for less")
    if full in reached:
        raise NoEffectError(f"int8 alone is {reached[full]:.2f}x, nothing need be cut: use `prunella quantize`")
    shape = min(reached, key=lambda s: reached[s])  # widths are coarse: the slowest that is fast enough
    return cut(model, *kept_units(importance, shape)), reached[shape]


def _speedup(smaller: Classifier, reference: Path, samples: list[TokenBatch], scratch: Path) -> float:
    fp32 = scratch / "smaller.onnx"
    to_onnx(smaller, fp32, pair=False)
    sessions = {"reference": open_session(reference)}
    sessions["ours"] = open_session(quantize_dynamic_int8(fp32, scratch / "smaller.int8.onnx"))
    calls = {name: lambda s=session: [run_session(s, b) for b in samples] for name, session in sessions.items()}
    times = interleave(calls, 7)
    return float(np.median(np.asarray(times["reference"]) / np.asarray(times["ours"])))


def _heal(pruned: ModelFolder, source: ModelFolder, texts: Texts, config: CompressConfig, target: Path) -> None:
    asked = Task.read(source.path / task_file.FILE)
    tokenizer = Tokenizer.open(source.path, asked.max_tokens)
    student, teacher = load_checkpoint(pruned.path), load_checkpoint(source.path)
    healing = distill(student, teacher, tokenizer.encode(texts.rows), tokenizer, config.heal)
    save_checkpoint(student, asked, target)
    _copy_texts(source, asked, target)
    (target / REPORT).write_text(json.dumps({"epoch_losses": healing.losses}) + "\n", encoding="utf-8")


def _copy_texts(source: ModelFolder, asked: Task, target: Path) -> None:
    asked.write(target / task_file.FILE)
    shutil.copyfile(source.path / tokens.FILE, target / tokens.FILE)
