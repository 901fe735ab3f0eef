"""measure_int8_loss(): quality loss of each sublayer in int8.

One sublayer at a time is in int8. Its cost is the divergence from the logits of the fp32 model, in the unit of
`compress.pruning.quality_loss`. The sublayer is computed in torch with the rounded weights and inputs of the int8
operators, so that only the sublayers after it are computed again. To write and to run a graph for each sublayer gives
the same costs (`tests/compress/quantization/test_int8_loss.py`), and takes minutes for a large model.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from compress.quantization.calibration import calibrate
from compress.quantization.replaced_sublayer import at_each_sublayer
from export.embedding_table import rounded_in_blocks
from export.graph_precision import Activation, EmbeddingBits, Scales, quantized_weight
from models.classifier import Classifier, TensorBatch
from models.messages import progress
from models.sublayer import SublayerId
from models.task import Kind
from models.tokenizer import TokenBatch
from models.train.divergence import divergence

SCALE_TEXTS = 128  # enough to compare sublayers: the graph that is served is calibrated on more texts
JUDGED_TEXTS = 64  # the cost decides only between int8 and fp32, and for most sublayers it is negligible
WEIGHT_BITS = 8
Int8Loss = dict[str, float]  # key of a sublayer → mean divergence over the texts


def measure_int8_loss(
    model: Classifier, fitted: Sequence[TokenBatch], judged: Sequence[TokenBatch], kind: Kind
) -> Int8Loss:
    """Return the cost of computing each sublayer in int8.

    Args:
        model: the fp32 model.
        fitted: calibration texts for the activation scales.
        judged: texts on which the cost is measured. They must not be in `fitted`: on the calibration texts the cost
            would be too low.
        kind: kind of the task.
    """
    shape, scales = model.architecture, calibrate(model, _first(fitted, SCALE_TEXTS))
    sublayers = at_each_sublayer(model, [TensorBatch(batch) for batch in _first(judged, JUDGED_TEXTS)], kind)
    total = 2 * len(shape.layers)
    return {
        name: divergence_with(in_int8(model, SublayerId.parse(name), scales))
        for name, divergence_with in progress(sublayers, total=total, desc="quality loss of int8", unit="sublayer")
        if shape.width_of(SublayerId.parse(name))
    }


def in_int8(model: Classifier, sublayer: SublayerId, scales: Scales) -> nn.Module:
    """Return a copy of a sublayer whose matrices compute what the int8 operators compute.

    The constants for relative positions, which a DeBERTa's graph rounds to 8 bits too, are not rounded.
    """
    result = copy.deepcopy(model.get_submodule(sublayer.module))
    for name, linear in list(result.named_children()):
        key = f"{sublayer.module}.{name}"
        if isinstance(linear, nn.Linear) and key in scales:
            first = f"{key}.query"  # of a layer that computes the first token only, the query has its own scale
            parts = (first, key, key) if first in scales else (key,)
            setattr(result, name, _RoundedLinear(linear, [scales[part] for part in parts]))
    return result


class _RoundedLinear(nn.Module):
    """A linear layer with rounded inputs, rounded weights, and the correction of the mean error in its bias."""

    def __init__(self, linear: nn.Linear, activations: Sequence[Activation]) -> None:
        """Round the weights; each of `activations` is for an equal part of the outputs."""
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias  # not rounded: DeBERTa multiplies positions with them
        self._parts = []
        biases = linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias
        pieces = zip(linear.weight.chunk(len(activations)), biases.chunk(len(activations)), strict=True)
        for number, (activation, (weight, bias)) in enumerate(zip(activations, pieces, strict=True)):
            values, scale = quantized_weight(activation.smoothed_weight(weight.detach().numpy().T), WEIGHT_BITS)
            correction = activation.correction
            if correction is not None:
                parts = len(correction) // len(bias)  # of keys and values
                bias = bias + torch.from_numpy(np.split(correction, parts)[number - 1 if parts > 1 else 0])
            self._parts.append((activation, torch.from_numpy((values * scale).T), bias.detach()))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (batch, tokens, outputs)."""
        products = [functional.linear(_rounded(inputs, one), weight, bias) for one, weight, bias in self._parts]
        return torch.cat(products, dim=-1)


def _rounded(inputs: Tensor, activation: Activation) -> Tensor:
    """Return what the int8 product reads: the smoothed inputs, (batch, tokens, inputs), in 256 steps."""
    if activation.smoothing is not None:
        inputs = inputs * torch.from_numpy(activation.smoothing)
    steps = (inputs / activation.scale).round() + activation.zero_point
    return (steps.clamp(0, 255) - activation.zero_point) * activation.scale


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
