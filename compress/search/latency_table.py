"""load_latency(): seconds of each sublayer at each width, in int8 and fp32, with the runtime and lengths served."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.measure.latency.timing import interleave
from compress.config import ALONE, Workload
from compress.pruning.surgery import with_biases
from compress.pruning.widths import widths
from compress.quantization.quantize import int8_variant
from compress.search.cost_table import Amounts, CostTable
from compress.search.latency_meter import timing_environment, write_served
from export.graph_precision import KINDS, Kind, Precision
from export.writer import write_int8
from models.architecture import Architecture
from models.classifier import Classifier
from models.messages import progress
from models.store.stage import Stage, run_stage
from models.tokenizer import TokenBatch
from service.model.engine import run_session
from service.model.session import open_session

VERSION = 4
FILE = "latency.json"
COPIES = 3  # of a sublayer in a timed graph; its time is the difference to the empty graph, divided by this
TIMED_SHARES = (1 / 16, 1 / 4, 1 / 2, 1)  # of the neurons; other widths are interpolated linearly
TIMED_HEADS = (1, 2, 4, 8)  # and all heads


def load_latency(shape: Architecture, lengths: Sequence[int], load: Workload, store: Path) -> CostTable:
    """Return the table of this machine, measured once for each architecture, lengths, workload and versions."""
    settings = {
        **timing_environment(load),
        "shape": shape.model_dump(mode="json", exclude={"vocabulary", "pad_id"}), "lengths": list(lengths),
    }  # fmt: skip

    def make(target: Path) -> None:
        measure_latency(shape, lengths, load).write(target / FILE)

    result = run_stage(Stage("latency", VERSION, settings), [], store, make)
    return CostTable.read(result.folder.path / FILE)


def measure_latency(
    shape: Architecture, lengths: Sequence[int], load: Workload = ALONE, rounds: int = 9
) -> CostTable:  # fmt: skip
    """Time graphs as they are served, with random weights, on batches of texts of `lengths` tokens."""
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

    def interpolate(kind: Kind, part: str) -> dict[int, float]:
        timed, all_widths = (timed_heads, heads) if part.endswith("attention") else (timed_neurons, neurons)
        copies = 1 if part.startswith("last") else COPIES
        measured = [max(0.0, seconds[f"{kind} {part}:{w}"] - fixed) / copies for w in timed]
        # a linear fit averages out the noise; of a layer with one head, or 32 neurons, only one width is timed
        line = np.poly1d(np.polyfit(timed, measured, min(1, len(timed) - 1)))
        return {w: max(0.0, float(line(w))) if w else 0.0 for w in all_widths}  # a dropped sublayer takes no time

    int8, fp32 = (Amounts(**{part: interpolate(kind, part) for part in Amounts.model_fields}) for kind in KINDS)
    return CostTable(fixed=fixed, int8=int8, fp32=fp32)


def _time(
    shape: Architecture,
    plans: dict[str, list[tuple[int, int]]],
    batches: Sequence[TokenBatch],
    load: Workload,
    rounds: int,
) -> dict[str, float]:
    """Return seconds per text of each plan, in each precision: "int8 NAME" and "fp32 NAME".

    A plan is (heads, neurons) for each layer.
    """
    small = with_biases(shape).model_copy(update={"vocabulary": 64, "pad_id": 0})
    calls = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, plan in progress(plans.items(), desc="latency table", unit="graph"):
            planned = small.with_layers(plan)
            model = Classifier(planned, 2).eval()
            for kind in KINDS:
                path = Path(scratch) / f"{kind}-{name.replace(':', '-')}.onnx"
                if kind == "int8":
                    write_served(model, path, False, batches, Precision.all_int8(planned))
                else:  # without calibration: no matrix is int8
                    write_int8(model, path, False, None, Precision.all_fp32(planned))
                session = open_session(path, load.threads, variant=int8_variant())
                calls[f"{kind} {name}"] = lambda s=session: [run_session(s, one) for one in batches]
        texts = sum(batch.rows for batch in batches)
        seconds = interleave(calls, rounds, threads=load.threads)
        return {name: float(np.median(times)) / texts for name, times in seconds.items()}


def _batch(length: int, texts: int) -> TokenBatch:
    ids = np.random.default_rng(length).integers(5, 64, (texts, length))
    return TokenBatch(ids, np.ones_like(ids), np.zeros_like(ids))
