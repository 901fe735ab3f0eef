"""LatencyTable: seconds of each sublayer at each width, on the runtime that will serve, at the served lengths."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bench.timing import interleave
from compress.quantize import quantize_dynamic_int8
from export.onnx import to_onnx
from models.architecture import Architecture
from models.classifier import Classifier
from models.record import Record
from models.tokens import TokenBatch
from service.engine import run_session
from service.runtime import open_session

COPIES = 3  # of the sublayer in a timed graph: its time is a difference, divided by this


class LatencyTable(Record):
    """Seconds by width, one thread, batch 1. `fixed` is an encoder that has no sublayer left."""

    fixed: float
    attention: dict[int, float]  # heads → seconds
    ffn: dict[int, float]  # neurons → seconds
    last_ffn: dict[int, float]  # in the last layer only the first token passes through

    def seconds(self, shape: Architecture) -> float:
        """Return the predicted seconds of an architecture; widths must be in the table."""
        total = self.fixed + sum(self.attention[layer.heads] for layer in shape.layers)
        total += sum(self.ffn[layer.ffn] for layer in shape.layers[:-1])
        return total + self.last_ffn[shape.layers[-1].ffn]


def widths(shape: Architecture) -> tuple[list[int], list[int]]:
    """Return the numbers of heads and of neurons worth timing: neurons in multiples of 32, finer where smaller."""
    heads = max(layer.heads for layer in shape.layers)
    ffn = max(layer.ffn for layer in shape.layers)
    neurons = {0, ffn} | {
        max(32, round(ffn * share / 32) * 32) for share in (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4)
    }
    return list(range(heads + 1)), sorted(n for n in neurons if n <= ffn)


def measure_latency(shape: Architecture, lengths: Sequence[int], rounds: int = 7) -> LatencyTable:
    """Time int8 graphs with random weights over texts of `lengths` tokens."""
    heads, neurons = widths(shape)
    timed_heads = sorted({h for h in heads if h in (0, 1, 2, 4, 8) or h == heads[-1]})
    small = shape.model_copy(update={"vocabulary": 64})
    plans = {("fixed", 0): [(0, 0)] * (COPIES + 1)}
    plans |= {("heads", h): [(h, 0)] * COPIES + [(0, 0)] for h in timed_heads[1:]}
    plans |= {("ffn", n): [(0, n)] * COPIES + [(0, 0)] for n in neurons[1:]}
    plans |= {("last", n): [(0, 0)] * COPIES + [(0, n)] for n in neurons[1:]}
    with tempfile.TemporaryDirectory() as scratch:
        calls = {}
        for (kind, width), plan in tqdm(plans.items(), desc="latency table", unit="graph"):
            path = Path(scratch) / f"{kind}{width}.onnx"
            to_onnx(Classifier(small.with_layers(plan), 2), path, pair=False)
            session = open_session(quantize_dynamic_int8(path, path.with_suffix(".int8.onnx")))
            batches = [_batch(length) for length in lengths]
            calls[f"{kind}:{width}"] = lambda s=session, b=batches: [run_session(s, one) for one in b]
        seconds = {name: float(np.median(times)) / len(lengths) for name, times in interleave(calls, rounds).items()}
    fixed = seconds["fixed:0"]
    attention = [0.0] + [max(0.0, (seconds[f"heads:{h}"] - fixed) / COPIES) for h in timed_heads[1:]]
    return LatencyTable(
        fixed=fixed,
        attention={h: float(np.interp(h, timed_heads, attention)) for h in heads},
        ffn={n: max(0.0, (seconds[f"ffn:{n}"] - fixed) / COPIES) if n else 0.0 for n in neurons},
        last_ffn={n: max(0.0, seconds[f"last:{n}"] - fixed) if n else 0.0 for n in neurons},
    )


def _batch(length: int) -> TokenBatch:
    ids = np.random.default_rng(length).integers(5, 64, (1, length))
    return TokenBatch(ids, np.ones_like(ids), np.zeros_like(ids))
