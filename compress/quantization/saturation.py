"""saturation(): measure on calibration texts where int8 products would saturate on a processor without VNNI.

Without VNNI, ONNX Runtime multiplies u8 by s8 with AVX2's VPMADDUBSW, which adds two adjacent products in 16 bits and
saturates: 255 · 127 + 255 · 127 = 64770 becomes 32767. This cannot happen with weights of 7 bits. It cannot happen
either with 8 bits and the session's precision key: then weights become u8, and each product has 32 bits.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from compress.quantization.calibration import TextBatches, matrix_inputs, observe
from export.graph_precision import Activation, Floats, Precision, Scales, quantized_weight
from models.classifier import Classifier
from models.schema import Record
from models.sublayer import SublayerId
from models.tokenizer import Row, Tokenizer

LOWEST, HIGHEST = -(2**15), 2**15 - 1
Ints = NDArray[np.int32]


class Saturation(Record):
    """Saturation of 16-bit sums in one int8 product."""

    pairs: int  # sums of two products that were computed
    saturated: int  # sums that do not fit into 16 bits
    error: float  # of the whole product: root mean square, relative to its norm

    @property
    def is_safe(self) -> bool:
        """Whether no sum saturates."""
        return self.saturated == 0


def saturation(
    model: Classifier, rows: Sequence[Row], tokenizer: Tokenizer, scales: Scales, precision: Precision
) -> dict[str, Saturation]:
    """Return the saturation of each int8 product of a static int8 graph, by matrix.

    Args:
        model: the fp32 model.
        rows: texts like those that will be served.
        tokenizer: tokenizer of the model.
        scales: activation scales of the graph.
        precision: precision of the graph's sublayers.
    """
    inputs = {name: one for name, one in matrix_inputs(model).items() if _is_int8(name, precision)}
    products = {name: PairSums(scales[name], one.weight, precision.weight_bits) for name, one in inputs.items()}
    observe(model, inputs, TextBatches(rows, tokenizer), lambda name, *values: products[name].add(*values))
    return {name: product.result() for name, product in products.items()}


class PairSums:
    """Counts the saturated sums of one int8 product; its inputs are added batch by batch."""

    def __init__(self, activation: Activation, weight: Floats, bits: int) -> None:
        values, column_scale = quantized_weight(activation.smoothed_weight(weight), bits)
        self._activation, self._scale = activation, activation.scale * column_scale
        self._weight: Ints = _paired(values.astype(np.int32), axis=0)  # (pairs, 2, outputs)
        self._pairs = self._saturated = self._rows = 0
        self._error = 0.0

    def add(self, values: Floats, row_weights: Floats) -> None:
        """Add inputs (rows, inputs); `row_weights` (rows,) are 1 / ‖product‖² of each row."""
        steps = np.rint(self._activation.smoothed(values) / np.float32(self._activation.scale))
        rounded = _paired(np.clip(steps + self._activation.zero_point, 0, 255).astype(np.int32), axis=1)
        errors = np.zeros((len(values), self._weight.shape[2]))
        for pair, columns in self._reachable(rounded.max(axis=0)):
            sums = rounded[:, pair] @ self._weight[pair][:, columns]  # (rows, columns)
            excess = sums - np.clip(sums, LOWEST, HIGHEST)
            self._saturated += int(np.count_nonzero(excess))
            errors[:, columns] += excess
        self._error += float(row_weights @ np.square(errors * self._scale).sum(axis=1))
        self._pairs += len(values) * self._weight.shape[0] * self._weight.shape[2]
        self._rows += len(values)

    def result(self) -> Saturation:
        """Return the saturation of all inputs that were added."""
        error = float(np.sqrt(self._error / max(self._rows, 1)))
        return Saturation(pairs=self._pairs, saturated=self._saturated, error=error)

    def _reachable(self, largest: Ints) -> list[tuple[int, NDArray[np.intp]]]:
        """Return the few pairs, with their columns, that inputs up to `largest` (pairs, 2) can saturate."""
        highest = (largest[:, :, None] * np.maximum(self._weight, 0)).sum(axis=1)
        lowest = (largest[:, :, None] * np.minimum(self._weight, 0)).sum(axis=1)
        reachable = (highest > HIGHEST) | (lowest < LOWEST)
        return [(int(pair), np.flatnonzero(reachable[pair])) for pair in np.flatnonzero(reachable.any(axis=1))]


def _paired(values: Ints, axis: int) -> Ints:
    """Split the axis of inputs into pairs of adjacent ones; a zero is added if their number is odd."""
    padding = [(0, 0)] * values.ndim
    padding[axis] = (0, values.shape[axis] % 2)
    padded = np.pad(values, padding)
    return padded.reshape(*padded.shape[:axis], -1, 2, *padded.shape[axis + 1 :])


def _is_int8(name: str, precision: Precision) -> bool:
    return precision.of(SublayerId.of_module(name)) == "int8"
