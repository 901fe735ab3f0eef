"""The whole compression of a tiny classifier, for the tests of what happens in it."""

from pathlib import Path
from typing import Any

from tiny import tiny_texts

from compress.analysis import AnalysisConfig
from compress.config import CompressConfig
from compress.distill import DistillConfig
from compress.pipeline import compress_to, prepare
from compress.source import Inputs, open_source
from compress.target import Target
from models.folder import ModelFolder
from models.train.loop import TrainingConfig

SMALL = Target(kind="size_mb", value=0.13)  # of a size nothing is timed: the shape is the same everywhere


def tiny_config(training: TrainingConfig, dropout: float | None = None, **more: Any) -> CompressConfig:
    """Return settings that take a second."""
    heal = DistillConfig(training=training, dropout=dropout)
    return CompressConfig(analysis=AnalysisConfig(texts=32, cost_texts=16), heal=heal, tolerance=0.1, **more)


def compress_tiny(source: Path, store: Path, config: CompressConfig, target: Target = SMALL) -> ModelFolder:
    """Return the bundle of the classifier in `source` that reaches `target`."""
    inputs = Inputs(open_source(source, store, max_tokens=32), tiny_texts(64), tiny_texts(64))
    return compress_to(target, prepare(inputs, config, store), config, store).folder
