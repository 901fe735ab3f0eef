"""What an engine is that a report compares, and the names of all. bench.worker opens each in its own process.

What is timed starts at token ids and ends at logits, padding included; `tfidf` has no tokens: its time is from text.
No engine loads another's libraries or data: they would count as its memory and its start (a test looks at each).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.task import Kind, Task
from models.tokens import Encoded, Row, Tokenizer

if TYPE_CHECKING:
    from models.data.texts import Texts

TIMEOUT = 600.0  # seconds: importing torch and transformers from a cold disk takes most of a minute


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What a worker needs to open one engine."""

    name: str
    folder: Path  # bundle (ours), another engine's form of the model, or the fine-tuned classifier (pytorch)
    task: Task
    file: str = ""  # the graph in `folder`, or what stands beside it, where the engine needs to be told
    threads: int = 1
    cores: tuple[int, ...] = ()  # that its process is pinned to; none: not pinned
    train: "Texts | None" = None  # of tfidf only: no other engine learns in its process
    handicap: float = 0.0  # share of each answer's own time that is waited on top: to try the guard
    timeout: float = TIMEOUT  # seconds in which it must start, and answer each call of the parent


@dataclass(frozen=True, slots=True)
class OpenEngine:
    """A running engine. `prepare(rows, tokens)` is not timed; `answer(prepared)` is, and returns (rows, labels)."""

    prepare: Callable[[Sequence[Row], int | None], Any]
    answer: Callable[[Any], NDArray[np.float32]]
    bytes: int  # files that it needs to answer
    mates_matter: bool  # answers depend on what else is in the batch, so accuracy is taken one text at a time
    lengths: Callable[[Any], list[int]] | None = None  # of what was prepared: each text's tokens; None: it has none


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


def fixed_length(encoded: Encoded, tokens: int) -> Encoded:
    """Return `encoded` cut, or its own tokens repeated, to exactly `tokens` tokens; for timing only."""
    repeats = -(-tokens // len(encoded.ids))
    return Encoded((encoded.ids * repeats)[:tokens], (encoded.types * repeats)[:tokens])


def token_lengths(encoded: Sequence[Encoded]) -> list[int]:
    """Return the number of tokens of each text: the `lengths` of an engine that reads tokens."""
    return [len(e.ids) for e in encoded]


def tokenized(tokenizer: Tokenizer) -> Callable[[Sequence[Row], int | None], list[Encoded]]:
    """Return the `prepare` of an engine that reads tokens."""

    def prepare(rows: Sequence[Row], tokens: int | None) -> list[Encoded]:
        encoded = tokenizer.encode(rows)
        return [fixed_length(e, tokens) for e in encoded] if tokens else encoded

    return prepare
