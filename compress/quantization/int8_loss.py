"""measure_int8_loss(): quality loss of each sublayer in int8, measured in ONNX Runtime, which serves the model.

One sublayer at a time is in int8. Its cost is the divergence from the logits of the fp32 model, in the unit of
`compress.pruning.quality_loss`. The token embeddings are int8 in the baseline too, so their loss is subtracted.
"""

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from compress.quantization.calibration import calibrate
from compress.quantization.fp32_fallback import sublayers
from compress.quantization.quantize import int8_variant
from export.embedding_table import rounded_in_blocks
from export.graph_precision import EmbeddingBits, Precision
from export.writer import write_int8
from models.classifier import Classifier, TensorBatch
from models.messages import progress
from models.task import Kind, Task
from models.tokenizer import TokenBatch
from models.train.divergence import divergence
from service.inference.engine import run_session
from service.inference.session import open_session

SCALE_TEXTS = 128  # enough to compare sublayers: the graph that is served is calibrated on more texts
Int8Loss = dict[str, float]  # key of a sublayer → mean divergence over the texts


def measure_int8_loss(
    model: Classifier, fitted: Sequence[TokenBatch], judged: Sequence[TokenBatch], task: Task
) -> Int8Loss:
    """Return the cost of computing each sublayer in int8.

    Args:
        model: the fp32 model.
        fitted: calibration texts for the activation scales.
        judged: texts on which the cost is measured. They must not be in `fitted`: on the calibration texts the cost
            would be too low.
        task: gives the kind of the logits, and whether a row is a pair.
    """
    shape, scales = model.architecture, calibrate(model, _first(fitted, SCALE_TEXTS))
    with torch.inference_mode():
        fp32_logits = [model(TensorBatch(batch))[0] for batch in judged]
    all_fp32 = Precision.all_fp32(shape)

    def cost(precision: Precision, path: Path) -> float:
        write_int8(model, path, task.pair, scales, precision)
        session, total = open_session(path, variant=int8_variant()), 0.0
        for batch, reference in zip(judged, fp32_logits, strict=True):
            total += float(divergence(task.kind, torch.from_numpy(run_session(session, batch)), reference).sum())
        return total / sum(batch.rows for batch in judged)

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        base = cost(all_fp32, path)
        return {
            sublayer.key: max(cost(all_fp32.replaced(sublayer.layer, sublayer.part, "int8"), path) - base, 0.0)
            for sublayer in progress(sublayers(shape), desc="quality loss of int8", unit="sublayer")
        }


@torch.inference_mode()
def table_cost(model: Classifier, batches: Sequence[TensorBatch], kind: Kind) -> float:
    """Return the mean divergence due to token embeddings in 4 bits; that of 8 bits is negligible."""
    rounded = with_rounded_table(model, 4)
    divergences = [divergence(kind, rounded(batch)[0], model(batch)[0]) for batch in batches]
    return float(torch.cat(divergences).mean())


@torch.no_grad()
def with_rounded_table(model: Classifier, bits: EmbeddingBits) -> Classifier:
    """Return the model with token embeddings rounded to `bits`; for 8 bits, the model itself.

    Quantizing the rounded embeddings again does not change them.
    """
    if bits == 8:
        return model
    rounded = copy.deepcopy(model)
    table = rounded.encoder.embeddings.get_parameter("tokens.weight")
    table.copy_(torch.from_numpy(rounded_in_blocks(table.detach().numpy())))
    return rounded


def _first(batches: Sequence[TokenBatch], texts: int) -> list[TokenBatch]:
    """Return the first batches, as many as are needed for `texts` texts; batches are in random order."""
    before = np.cumsum([0, *[batch.rows for batch in batches]])
    return [batch for batch, preceding in zip(batches, before[:-1], strict=True) if preceding < texts]
