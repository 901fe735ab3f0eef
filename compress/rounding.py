"""measure_rounding(): what int8 costs in answers, sublayer by sublayer, on the runtime that serves.

Each sublayer is rounded by itself; the divergence from the full model's answers is its cost, in the unit of
`compress.costs`. The token table is int8 in every form: what it costs is taken off.
"""

import copy
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from compress.calibrate import calibrate
from compress.divergence import divergence
from compress.quantize import int8_variant
from compress.sensitivity import sublayers
from export.onnx import write_int8
from export.precision import EmbeddingBits, Precision
from export.words import rounded_in_blocks
from models.classifier import Classifier, TensorBatch
from models.task import Kind, Task
from models.tokens import TokenBatch
from service.engine import run_session
from service.runtime import open_session

SCALE_TEXTS = 128  # what is compared are sublayers: the served form is calibrated on more
Rounding = dict[str, float]  # sublayer → mean divergence over the texts


def measure_rounding(
    model: Classifier, fitted: Sequence[TokenBatch], judged: Sequence[TokenBatch], task: Task
) -> Rounding:
    """Return the cost of computing each sublayer in int8.

    Args:
        model: in fp32.
        fitted: texts that the scales of activations are taken from.
        judged: texts that the cost is measured on; others than `fitted`, or the scales flatter.
        task: what the logits mean, and whether a row is a pair.
    """
    shape, scales = model.architecture, calibrate(model, _first(fitted, SCALE_TEXTS))
    with torch.inference_mode():
        wanted = [model(TensorBatch(batch))[0] for batch in judged]
    nothing = Precision.all_fp32(shape)

    def cost(precision: Precision, path: Path) -> float:
        write_int8(model, path, task.pair, scales, precision)
        session, total = open_session(path, variant=int8_variant()), 0.0
        for batch, answers in zip(judged, wanted, strict=True):
            total += float(divergence(task.kind, torch.from_numpy(run_session(session, batch)), answers).sum())
        return total / sum(batch.rows for batch in judged)

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        base = cost(nothing, path)
        return {
            f"{index}.{part}": max(cost(nothing.replaced(index, part, "int8"), path) - base, 0.0)
            for index, part in tqdm(sublayers(shape), desc="what int8 costs", unit="sublayer", file=sys.stderr)
        }


@torch.inference_mode()
def table_cost(model: Classifier, batches: Sequence[TensorBatch], kind: Kind) -> float:
    """Return the cost of a token table in 4 bits, likewise; what 8 bits cost is next to nothing."""
    rounded = with_rounded_table(model, 4)
    found = [divergence(kind, rounded(batch)[0], model(batch)[0]) for batch in batches]
    return float(torch.cat(found).mean())


@torch.no_grad()
def with_rounded_table(model: Classifier, bits: EmbeddingBits) -> Classifier:
    """Return the model with the token table that it will be served with; the model itself where that has 8 bits.

    Rounding once more changes nothing then.
    """
    if bits == 8:
        return model
    rounded = copy.deepcopy(model)
    table = rounded.encoder.embeddings.get_parameter("tokens.weight")
    table.copy_(torch.from_numpy(rounded_in_blocks(table.detach().numpy())))
    return rounded


def _first(batches: Sequence[TokenBatch], texts: int) -> list[TokenBatch]:
    """Return the first batches that have as many texts together; they come in random order."""
    before = np.cumsum([0, *[batch.rows for batch in batches]])
    return [batch for batch, seen in zip(batches, before[:-1], strict=True) if seen < texts]
