"""Engines on ONNX Runtime: ours as the service answers, and optimum's graphs as other programs run them."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.engines import EngineSpec, OpenEngine, tokenized
from models.tokens import Encoded, Tokenizer
from service.bundle import Bundle
from service.engine import Engine, run_session
from service.runtime import RuntimeSettings, open_session
from service.scheduler import Job, Rules, Scheduler, Served
from service.settings import Settings


def our_engine(spec: EngineSpec) -> OpenEngine:
    """Open a bundle; texts of a batch share a run of the model as they do in the service."""
    bundle = Bundle.open(spec.folder)
    engine = Engine.open(bundle, RuntimeSettings(device="cpu", threads=spec.threads))
    rules, size = Settings().rules(), bundle.served_bytes(engine.variant_name)

    def answer(encoded: list[Encoded]) -> NDArray[np.float32]:
        runs = served_runs(engine, encoded, rules)
        found = np.concatenate([engine.infer([job.work for job in run]) for run in runs])
        return found[np.argsort([job.position for run in runs for job in run])]

    return OpenEngine(tokenized(engine.tokenizer), answer, size, mates_matter=False)


def served_runs(engine: Served, encoded: Sequence[Encoded], rules: Rules) -> list[list[Job]]:
    """Return the runs of the model in which the service answers a request of these texts, by its own scheduler."""
    line = Scheduler(rules)
    line.add([_waiting(engine, one, place) for place, one in enumerate(encoded)], 0.0)
    runs = []
    while line.waiting:
        runs.append(line.take(0, 0.0).batch)
    return runs


def _waiting(engine: Served, work: Encoded, place: int) -> Job:
    return Job(engine, work, len(work.ids), 0.0, 0.0, math.inf, lambda: False, position=place)


def stock_engine(spec: EngineSpec) -> OpenEngine:
    """Open a graph of optimum's; a batch is padded to its longest text."""
    file = spec.folder / spec.file
    tokenizer = Tokenizer.open(spec.folder, spec.task.max_tokens)
    session = open_session(file, spec.threads)

    def answer(encoded: list[Encoded]) -> NDArray[np.float32]:
        return run_session(session, tokenizer.pad(encoded))

    size = file.stat().st_size + (spec.folder / "tokenizer.json").stat().st_size
    return OpenEngine(tokenized(tokenizer), answer, size, mates_matter=spec.name == "stock_int8")
