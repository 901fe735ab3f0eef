"""saturation(): where an int8 file would go wrong on a processor without VNNI, found on calibration texts.

There ONNX Runtime multiplies u8 by s8 with AVX2's VPMADDUBSW, which adds two neighbouring products in 16 bits and
cuts off what lies beyond: 255 · 127 + 255 · 127 = 64770 becomes 32767. Weights of 7 bits cannot reach that, nor can
8 bits with the session's precision key, with which weights become u8 and each product has 32 bits.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from compress.calibrate import TextBatches, points_of, watch
from export.precision import Activation, Floats, Precision, Scales, quantized_weight
from models.classifier import Classifier
from models.record import Record
from models.tokens import Row, Tokenizer

LOWEST, HIGHEST = -(2**15), 2**15 - 1
Ints = NDArray[np.int32]


class Saturation(Record):
    """What 16 bits would cut off in one int8 product."""

    pairs: int  # sums of two products that were looked at
    saturated: int  # those that do not fit
    error: float  # of the whole product, root mean square relative to its length

    @property
    def is_safe(self) -> bool:
        """Whether nothing was cut off."""
        return self.saturated == 0


def saturation(
    model: Classifier, rows: Sequence[Row], tokenizer: Tokenizer, scales: Scales, precision: Precision
) -> dict[str, Saturation]:
    """Return what 16 bits would cut off in each int8 product of a static file, by matrix.

    Args:
        model: in fp32.
        rows: texts like those that will be served.
        tokenizer: of the model.
        scales: of the file's activations.
        precision: of the file's sublayers.
    """
    points = {name: point for name, point in points_of(model).items() if _is_int8(name, precision)}
    products = {n: PairSums(scales[n], p.weight, precision.weight_bits) for n, p in points.items()}
    watch(model, points, TextBatches(rows, tokenizer), lambda name, *seen: products[name].add(*seen))
    return {name: product.found() for name, product in products.items()}


class PairSums:
    """One int8 product, fed with its inputs."""

    def __init__(self, activation: Activation, weight: Floats, bits: int) -> None:
        values, column_scale = quantized_weight(activation.smoothed_weight(weight), bits)
        self._activation, self._scale = activation, activation.scale * column_scale
        self._weight: Ints = _paired(values.astype(np.int32), axis=0)  # (pairs, 2, outputs)
        self._pairs = self._saturated = self._rows = 0
        self._error = 0.0

    def add(self, values: Floats, row_weights: Floats) -> None:
        """Look at inputs (rows, inputs); `row_weights` (rows,) are 1 / ‖product‖² of each row."""
        steps = np.rint(self._activation.smoothed(values) / np.float32(self._activation.scale))
        rounded = _paired(np.clip(steps + self._activation.zero_point, 0, 255).astype(np.int32), axis=1)
        cut = np.zeros((len(values), self._weight.shape[2]))
        for pair, columns in self._reachable(rounded.max(axis=0)):
            sums = rounded[:, pair] @ self._weight[pair][:, columns]  # (rows, columns)
            beyond = sums - np.clip(sums, LOWEST, HIGHEST)
            self._saturated += int(np.count_nonzero(beyond))
            cut[:, columns] += beyond
        self._error += float(row_weights @ np.square(cut * self._scale).sum(axis=1))
        self._pairs += len(values) * self._weight.shape[0] * self._weight.shape[2]
        self._rows += len(values)

    def found(self) -> Saturation:
        """Return what was found."""
        error = float(np.sqrt(self._error / max(self._rows, 1)))
        return Saturation(pairs=self._pairs, saturated=self._saturated, error=error)

    def _reachable(self, most: Ints) -> list[tuple[int, NDArray[np.intp]]]:
        """Return pairs and their columns that inputs up to `most` (pairs, 2) can bring beyond 16 bits: few."""
        highest = (most[:, :, None] * np.maximum(self._weight, 0)).sum(axis=1)
        lowest = (most[:, :, None] * np.minimum(self._weight, 0)).sum(axis=1)
        reachable = (highest > HIGHEST) | (lowest < LOWEST)
        return [(int(pair), np.flatnonzero(reachable[pair])) for pair in np.flatnonzero(reachable.any(axis=1))]


def _paired(values: Ints, axis: int) -> Ints:
    """Cut the axis of inputs into neighbours, the last one beside a zero where the number is odd."""
    more = [(0, 0)] * values.ndim
    more[axis] = (0, values.shape[axis] % 2)
    padded = np.pad(values, more)
    return padded.reshape(*padded.shape[:axis], -1, 2, *padded.shape[axis + 1 :])


def _is_int8(name: str, precision: Precision) -> bool:
    layer, part = name.split(".")[2:4]
    kinds = precision.layers[int(layer)]
    return (kinds.attention if part == "attention" else kinds.ffn) == "int8"
