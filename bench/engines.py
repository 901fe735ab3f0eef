"""The engines that a report compares, by name. Each is opened in its own process (bench.worker) and answers texts.

What is timed starts at token ids and ends at logits, padding included; `tfidf` has no tokens: its time is from text.
No engine loads another's libraries: they would count as its memory and its start (a test keeps torch out of ours).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.data.texts import Texts
from models.task import Kind, Task
from models.tokens import Encoded, Row, Tokenizer
from service.bundle import Bundle
from service.engine import Engine, run_session
from service.runtime import RuntimeSettings, open_session
from service.scheduler import Job, Rules, Scheduler, Served
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What a worker needs to open one engine."""

    name: str
    folder: Path  # bundle (ours), another engine's form of the model, or the fine-tuned classifier (pytorch)
    task: Task
    file: str = ""  # the graph in `folder`, or what stands beside it, where the engine needs to be told
    threads: int = 1
    cores: tuple[int, ...] = ()  # that its process is pinned to; none: not pinned
    train: Texts | None = None  # for tfidf
    handicap: float = 0.0  # share of each answer's own time that is waited on top: to try the guard


@dataclass(frozen=True, slots=True)
class OpenEngine:
    """A running engine. `prepare(rows, tokens)` is not timed; `answer(prepared)` is, and returns (rows, labels)."""

    prepare: Callable[[Sequence[Row], int | None], Any]
    answer: Callable[[Any], NDArray[np.float32]]
    bytes: int  # files that it needs to answer
    mates_matter: bool  # answers depend on what else is in the batch, so accuracy is taken one text at a time


DESCRIPTIONS = {
    "ours": "Prunella's bundle, as served",
    "pytorch": "transformers in PyTorch eager, fp32",
    "ort_fp32": "optimum's ONNX export on ONNX Runtime, fp32",
    "stock_int8": "optimum's dynamic int8 recipe on ONNX Runtime",
    "openvino": "optimum's export on OpenVINO, NNCF post-training int8",
    "ctranslate2": "CTranslate2, int8 weights",
    "torch_compile": "transformers in PyTorch, compiled, fp32",
    "tfidf": "TF-IDF and {simple} (scikit-learn), time from text",
}
REFERENCES = ("ort_fp32", "pytorch")  # the unpruned model in full precision; the first that ran is the reference


def describe(name: str, kind: Kind) -> str:
    """Return what an engine is, for a task of a kind."""
    return DESCRIPTIONS[name].format(simple=simple_model(kind))


def simple_model(kind: Kind) -> str:
    """Return what `tfidf` learns with."""
    return "ridge regression" if kind == "regression" else "logistic regression"


def open_engine(spec: EngineSpec) -> OpenEngine:
    """Return the engine of that name, ready to answer."""
    from bench import peers, pytorch, tfidf  # here, because they take what is above

    openers = {
        "ours": _ours, "pytorch": pytorch.eager_engine, "ort_fp32": _stock, "stock_int8": _stock,
        "tfidf": tfidf.tfidf_engine, "openvino": peers.openvino_engine, "ctranslate2": peers.ctranslate2_engine,
        "torch_compile": pytorch.compiled_engine,
    }  # fmt: skip
    return openers[spec.name](spec)


def fixed_length(encoded: Encoded, tokens: int) -> Encoded:
    """Return `encoded` cut, or its own tokens repeated, to exactly `tokens` tokens; for timing only."""
    repeats = -(-tokens // len(encoded.ids))
    return Encoded((encoded.ids * repeats)[:tokens], (encoded.types * repeats)[:tokens])


def tokenized(tokenizer: Tokenizer) -> Callable[[Sequence[Row], int | None], list[Encoded]]:
    """Return the `prepare` of an engine that reads tokens."""

    def prepare(rows: Sequence[Row], tokens: int | None) -> list[Encoded]:
        encoded = tokenizer.encode(rows)
        return [fixed_length(e, tokens) for e in encoded] if tokens else encoded

    return prepare


def _ours(spec: EngineSpec) -> OpenEngine:
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


def _stock(spec: EngineSpec) -> OpenEngine:
    file = spec.folder / spec.file
    tokenizer = Tokenizer.open(spec.folder, spec.task.max_tokens)
    session = open_session(file, spec.threads)

    def answer(encoded: list[Encoded]) -> NDArray[np.float32]:
        return run_session(session, tokenizer.pad(encoded))

    size = file.stat().st_size + (spec.folder / "tokenizer.json").stat().st_size
    return OpenEngine(tokenized(tokenizer), answer, size, mates_matter=spec.name == "stock_int8")
