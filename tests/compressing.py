"""The whole compression of a tiny classifier, for the tests of what happens in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tiny import tiny_texts

from compress.analysis import AnalysisConfig
from compress.clock import Clock, Measured
from compress.config import CompressConfig
from compress.distill import DistillConfig
from compress.pipeline import compress_to, prepare
from compress.source import Inputs, open_source
from compress.target import Target
from models.data.texts import Texts
from models.folder import ModelFolder
from models.train.loop import TrainingConfig

SMALL = Target(kind="size_mb", value=0.13)  # of a size nothing is timed: the shape is the same everywhere


@contextmanager
def no_slow_noise() -> Iterator[None]:
    """Let no measurement say that a model is less than twice as fast as its reference.

    A tiny model takes 0.1 ms, of which a busy machine makes anything; a model that is slower is refused.
    """
    time = Clock.time

    def floored(self: Clock, *told: Any, **more: Any) -> Measured:
        found = time(self, *told, **more)
        return found.model_copy(update={"speedup": max(2.0, found.speedup)})

    with patch.object(Clock, "time", floored):
        yield


def tiny_config(training: TrainingConfig, dropout: float | None = None, **more: Any) -> CompressConfig:
    """Return settings that take a second."""
    heal = DistillConfig(training=training, dropout=dropout)
    return CompressConfig(analysis=AnalysisConfig(texts=32, cost_texts=16), heal=heal, tolerance=0.1, **more)


def labelled_inputs(source: Path, store: Path, max_tokens: int = 32) -> Inputs:
    """Return the classifier in `source` with texts whose labels are called as it calls them."""
    texts = tiny_texts(64)
    names = {"negative": "LABEL_0", "positive": "LABEL_1"}
    texts = Texts(texts.rows, [names[str(label)] for label in texts.labels], "tiny")
    return Inputs(open_source(source, store, max_tokens=max_tokens), texts, texts)


def compress_tiny(source: Path, store: Path, config: CompressConfig, target: Target = SMALL) -> ModelFolder:
    """Return the bundle of the classifier in `source` that reaches `target`."""
    inputs = Inputs(open_source(source, store, max_tokens=32), tiny_texts(64), tiny_texts(64))
    with no_slow_noise():  # also in processes that know no fixtures
        return compress_to(target, prepare(inputs, config, store), config, store).folder
