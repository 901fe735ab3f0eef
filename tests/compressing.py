"""The whole compression of a tiny classifier, for the tests of what happens in it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_texts

from bench.measure.engine_spec import EngineSpec
from bench.measure.latency.interference import Interference
from bench.measure.latency.process_restarts import Conditions, combine
from bench.report.report_schema import Openings
from compress.config import AnalysisConfig, CompressConfig, DistillConfig
from compress.inputs.inputs import CompressionInputs
from compress.inputs.source import open_source
from compress.pipeline import compress_to, prepare
from compress.search.cost_table import Amounts, CostTable, size_cost_table
from compress.search.search_to_target import Target
from models.architecture import Architecture
from models.data.texts import Texts
from models.store.folder import ModelFolder
from models.tokenizer import Row
from models.train.loop import TrainingConfig

SMALL = Target(kind="size_mb", value=0.13)  # of a size nothing is timed: the shape is the same everywhere


MS_PER_BYTE = 1e-6
OURS = 1.0  # times as long as its bytes say does a graph of ours take
SPREAD = (0.99, 1.01)  # of fresh processes, in turn


def byte_openings(
    reference: EngineSpec, ours: EngineSpec, rows: Sequence[Row], count: int, conditions: Conditions
) -> Openings:
    """Stand in for `measure_openings`: a graph takes a nanosecond for each of its bytes and text.

    What real processes take depends on the machine: a tiny model takes 0.1 ms, of which a busy one makes anything.
    """
    milliseconds = [
        sum(p.stat().st_size for p in _files(Path(spec.folder / spec.file))) * MS_PER_BYTE * conditions.batch
        for spec in (reference, ours)
    ]
    return openings_of(
        [milliseconds[0]] * count, [milliseconds[1] * OURS / SPREAD[i % 2] for i in range(count)], len(rows)
    )


def time_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `byte_openings` and `byte_latency` say what takes how long."""
    monkeypatch.setattr("compress.search.latency_meter.measure_openings", byte_openings)
    monkeypatch.setattr("compress.search.prune.load_latency", byte_latency)


def openings_of(reference_ms: Sequence[float], ours_ms: Sequence[float], texts: int = 24) -> Openings:
    """Return the openings in which the reference and ours took so many milliseconds."""
    speedups = [a / b for a, b in zip(reference_ms, ours_ms, strict=True)]
    middle, interval = combine(speedups)
    return Openings(
        texts=texts, threads=1, rounds=3, reference_ms=tuple(reference_ms), ours_ms=tuple(ours_ms),
        speedups=tuple(speedups), speedup=middle, interval=interval, quiet=Interference(others=0.0, stolen=0.0),
    )  # fmt: skip


def byte_latency(full: Architecture, *_: Any) -> CostTable:
    """Stand in for `load_latency`: what `byte_openings` takes."""
    sizes = size_cost_table(full, 30_000.0)
    kinds = {
        kind: Amounts.model_validate({
            part: {w: n * MS_PER_BYTE / 1e3 for w, n in amounts.items()} for part, amounts in getattr(sizes, kind)
        })
        for kind in ("int8", "fp32")
    }  # fmt: skip
    return CostTable(fixed=sizes.fixed * MS_PER_BYTE / 1e3, **kinds)


def _files(graph: Path) -> list[Path]:
    return [path for path in (graph, graph.with_suffix(".bin")) if path.is_file()]


def tiny_config(training: TrainingConfig, dropout: float | None = None, **more: Any) -> CompressConfig:
    """Return settings that take a second."""
    heal = DistillConfig(training=training, dropout=dropout)
    return CompressConfig(analysis=AnalysisConfig(texts=32, cost_texts=16), heal=heal, tolerance=0.1, **more)


def labelled_inputs(source: Path, store: Path, max_tokens: int = 32) -> CompressionInputs:
    """Return the classifier in `source` with texts whose labels are called as it calls them."""
    texts = tiny_texts(64)
    names = {"negative": "LABEL_0", "positive": "LABEL_1"}
    texts = Texts(texts.rows, [names[str(label)] for label in texts.labels], "tiny")
    return CompressionInputs(open_source(source, store, max_tokens=max_tokens), texts, texts)


def compress_tiny(source: Path, store: Path, config: CompressConfig, target: Target = SMALL) -> ModelFolder:
    """Return the bundle of the classifier in `source` that reaches `target`."""
    inputs = CompressionInputs(open_source(source, store, max_tokens=32), tiny_texts(64), tiny_texts(64))
    return compress_to(target, prepare(inputs, config, store), config, store).folder
