"""EngineSpec and OpenEngine: the engines that a report compares, before and after they are opened.

`bench.measure.latency.engine_worker` opens each engine in its own process. The time of an engine starts at token ids
and ends at logits, padding included; `tfidf` has no tokens, so that its time starts at the text. No engine process
loads the libraries or data of another engine, because they would count as its memory and its start-up time (tests
check this).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.task import Kind, Task
from models.tokenizer import Encoded, Row, Tokenizer

if TYPE_CHECKING:
    from models.data.texts import Texts

TIMEOUT = 600.0  # seconds: importing torch and transformers from a cold disk takes most of a minute


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Everything that a worker process needs to open one engine."""

    name: str
    folder: Path  # bundle (ours), converted model of another engine, or the fine-tuned classifier (pytorch)
    task: Task
    file: str = ""  # name of the graph (or of another file) in `folder`, for engines that need one
    threads: int = 1
    cores: tuple[int, ...] = ()  # cores that its process is pinned to; empty: not pinned
    train: "Texts | None" = None  # training texts, for tfidf only: no other engine is trained in its process
    handicap: float = 0.0  # extra wait as a share of each answer's own time, to test the regression guard
    exporter: str = "optimum"  # what exported the graph that it runs: "optimum" or "torch"
    timeout: float = TIMEOUT  # seconds for its start, and for each call of the parent process


@dataclass(frozen=True, slots=True)
class OpenEngine:
    """A running engine. `prepare(rows, tokens)` is not timed; `answer(prepared)` is, and returns (rows, labels)."""

    prepare: Callable[[Sequence[Row], int | None], Any]
    answer: Callable[[Any], NDArray[np.float32]]
    bytes: int  # size of the files that it needs to answer
    batch_dependent: bool  # answers depend on the other texts of the batch: accuracy is measured one text at a time
    lengths: Callable[[Any], list[int]] | None = None  # tokens of each prepared text; None: the engine has no tokens


DESCRIPTIONS = {
    "ours": "Prunella's bundle, as served",
    "cascade": "Prunella's bundle with its gate, as served; its speed-up is that of mean times",
    "pytorch": "transformers in PyTorch eager, fp32",
    "ort_fp32": "{exporter}'s ONNX export on ONNX Runtime, fp32",
    "stock_int8": "{exporter}'s export on ONNX Runtime, optimum's dynamic int8 recipe",
    "openvino": "{exporter}'s export on OpenVINO, NNCF post-training int8",
    "ctranslate2": "CTranslate2, int8 weights",
    "torch_compile": "transformers in PyTorch, compiled, fp32",
    "tfidf": "TF-IDF and {simple} (scikit-learn), time from text",
}
REFERENCES = ("ort_fp32", "pytorch")  # the unpruned model in fp32; the first of them that ran is the reference


def describe(name: str, kind: Kind, exporter: str = "optimum") -> str:
    """Return the description of an engine for a kind of task; `exporter` is that of `EngineSpec`."""
    return DESCRIPTIONS[name].format(simple=simple_model(kind), exporter=exporter)


def simple_model(kind: Kind) -> str:
    """Return the name of the linear model of `tfidf`."""
    return "ridge regression" if kind == "regression" else "logistic regression"


def fixed_length(encoded: Encoded, tokens: int) -> Encoded:
    """Truncate `encoded`, or repeat its tokens, to exactly `tokens` tokens; for timing only."""
    repeats = -(-tokens // len(encoded.ids))
    return Encoded((encoded.ids * repeats)[:tokens], (encoded.types * repeats)[:tokens])


def token_lengths(encoded: Sequence[Encoded]) -> list[int]:
    """Return the number of tokens of each text: `OpenEngine.lengths` of an engine that reads tokens."""
    return [len(e.ids) for e in encoded]


def tokenized(tokenizer: Tokenizer) -> Callable[[Sequence[Row], int | None], list[Encoded]]:
    """Return `OpenEngine.prepare` for an engine that reads tokens."""

    def prepare(rows: Sequence[Row], tokens: int | None) -> list[Encoded]:
        encoded = tokenizer.encode(rows)
        return [fixed_length(e, tokens) for e in encoded] if tokens else encoded

    return prepare
