"""load_latency(): seconds of each sublayer at each width, in int8 and fp32, on the runtime and lengths served."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bench.timing import interleave
from compress.budget import Amounts, BudgetTable, widths
from compress.clock import ALONE, Load, times_belong_to, write_served
from compress.quantize import int8_variant
from compress.surgery import with_biases
from export.precision import KINDS, Kind, Precision
from models.architecture import Architecture
from models.classifier import Classifier
from models.stage import Stage, run_stage
from models.tokens import TokenBatch
from service.engine import run_session
from service.runtime import open_session

VERSION = 4
FILE = "latency.json"
COPIES = 3  # of the sublayer in a timed graph: its time is a difference, divided by this
TIMED_SHARES = (1 / 16, 1 / 4, 1 / 2, 1)  # the others lie between: time is a straight line in the width
TIMED_HEADS = (1, 2, 4, 8)  # and all


def load_latency(shape: Architecture, lengths: Sequence[int], load: Load, store: Path) -> BudgetTable:
    """Return the table of this machine, measured once for a shape, its lengths, the load and the versions at hand."""
    settings = {
        **times_belong_to(load),
        "shape": shape.model_dump(mode="json", exclude={"vocabulary", "pad_id"}), "lengths": list(lengths),
    }  # fmt: skip

    def make(target: Path) -> None:
        measure_latency(shape, lengths, load).write(target / FILE)

    made = run_stage(Stage("latency", VERSION, settings), [], store, make)
    return BudgetTable.read(made.folder.path / FILE)


def measure_latency(
    shape: Architecture, lengths: Sequence[int], load: Load = ALONE, rounds: int = 9
) -> BudgetTable:  # fmt: skip
    """Time served graphs with random weights over batches of texts of `lengths` tokens."""
    heads, neurons = widths(shape)
    timed_heads = [h for h in TIMED_HEADS if h < heads[-1]] + [heads[-1]]
    timed_neurons = sorted({min(neurons, key=lambda n: abs(n - share * neurons[-1])) for share in TIMED_SHARES} - {0})
    empty = [(0, 0)]
    plans = {"fixed": empty * (COPIES + 1)}
    for h in timed_heads:
        plans |= {f"attention:{h}": [(h, 0)] * COPIES + empty, f"last_attention:{h}": empty * COPIES + [(h, 0)]}
    for n in timed_neurons:
        plans |= {f"ffn:{n}": [(0, n)] * COPIES + empty, f"last_ffn:{n}": empty * COPIES + [(0, n)]}
    batches = [_batch(length, load.batch) for length in lengths]
    seconds = _time(shape, plans, batches, load, rounds)
    fixed = seconds["int8 fixed"]

    def line(kind: Kind, part: str) -> dict[int, float]:
        timed, wanted = (timed_heads, heads) if part.endswith("attention") else (timed_neurons, neurons)
        copies = 1 if part.startswith("last") else COPIES
        known = [max(0.0, seconds[f"{kind} {part}:{w}"] - fixed) / copies for w in timed]
        line = np.poly1d(np.polyfit(timed, known, 1))  # a straight line evens out the noise
        return {w: max(0.0, float(line(w))) if w else 0.0 for w in wanted}  # what is dropped takes nothing

    int8, fp32 = (Amounts(**{part: line(kind, part) for part in Amounts.model_fields}) for kind in KINDS)
    return BudgetTable(fixed=fixed, int8=int8, fp32=fp32)


def _time(
    shape: Architecture,
    plans: dict[str, list[tuple[int, int]]],
    batches: Sequence[TokenBatch],
    load: Load,
    rounds: int,
) -> dict[str, float]:
    """Return seconds a text of each plan of (heads, neurons) a layer, in each precision: "int8 NAME", "fp32 NAME"."""
    small = with_biases(shape).model_copy(update={"vocabulary": 64, "pad_id": 0})
    calls = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, plan in tqdm(plans.items(), desc="latency table", unit="graph", file=sys.stderr):
            planned = small.with_layers(plan)
            both: dict[Kind, Precision] = {
                "int8": Precision.all_int8(planned), "fp32": Precision.all_fp32(planned)
            }  # fmt: skip
            for kind, precision in both.items():
                path = Path(scratch) / f"{kind}-{name.replace(':', '-')}.onnx"
                write_served(Classifier(planned, 2).eval(), path, False, batches, precision)
                session = open_session(path, load.threads, variant=int8_variant())
                calls[f"{kind} {name}"] = lambda s=session: [run_session(s, one) for one in batches]
        texts = sum(batch.rows for batch in batches)
        found = interleave(calls, rounds, pause=load.pause)
        return {name: float(np.median(times)) / texts for name, times in found.items()}


def _batch(length: int, texts: int) -> TokenBatch:
    ids = np.random.default_rng(length).integers(5, 64, (texts, length))
    return TokenBatch(ids, np.ones_like(ids), np.zeros_like(ids))
