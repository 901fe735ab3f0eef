"""Precision and Scales: which sublayers are int8, and how their activations are quantized.

`Precision` is stored as `precision.json` in a folder of weights. `Scales` come from
`compress.quantization.calibration`. `export.layers` reads both when it writes a graph.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from models.architecture import Architecture
from models.schema import Record
from models.sublayer import Part, SublayerId

Kind = Literal["fp32", "int8"]
FILE = "precision.json"  # in a folder of weights: the precision that the search chose for them
KINDS: tuple[Kind, ...] = ("int8", "fp32")
EmbeddingBits = Literal[4, 8]
Floats = NDArray[np.float32]


class LayerPrecision(Record):
    """Precision of the matrices of one layer."""

    attention: Kind = "int8"
    ffn: Kind = "int8"


class Precision(Record):
    """Precision of each layer, and bit widths of the quantized weights.

    `weight_bits`: with 7 bits the products never saturate on CPUs without VNNI. `embedding_bits`: 4 bits take half
    the space of 8.
    """

    layers: tuple[LayerPrecision, ...]
    weight_bits: Literal[7, 8] = 8
    embedding_bits: EmbeddingBits = 8
    # keys of `Scales` whose input is smoothed; None: calibration smooths where it reduces the error enough
    smoothed: tuple[str, ...] | None = None

    @classmethod
    def all_int8(cls, shape: Architecture, weight_bits: Literal[7, 8] = 8, embedding_bits: EmbeddingBits = 8) -> Self:
        """Return the precision in which every sublayer is int8."""
        layers = (LayerPrecision(),) * len(shape.layers)
        return cls(layers=layers, weight_bits=weight_bits, embedding_bits=embedding_bits)

    @classmethod
    def all_fp32(cls, shape: Architecture) -> Self:
        """Return the precision in which no sublayer is int8."""
        return cls(layers=(LayerPrecision(attention="fp32", ffn="fp32"),) * len(shape.layers))

    def of(self, sublayer: SublayerId) -> Kind:
        """Return how the matrices of a sublayer are computed."""
        kinds = self.layers[sublayer.layer]
        return kinds.attention if sublayer.part == "attention" else kinds.ffn

    def replaced(self, layer: int, part: Part, kind: Kind) -> Self:
        """Return the same precision with one sublayer changed."""
        layers = list(self.layers)
        layers[layer] = layers[layer].model_copy(update={part: kind})
        return self.model_copy(update={"layers": tuple(layers)})


@dataclass(frozen=True, slots=True)
class Activation:
    """Quantization of the input x of one matrix to u8: round(x * smoothing / scale) + zero_point, clipped to 0 … 255.

    `smoothing` (inputs,) reduces columns with outliers; the rows of the matrix are divided by it (SmoothQuant).
    `correction` (outputs,) is added to the bias: it compensates the mean error of the output due to quantization.
    """

    scale: float
    zero_point: int
    smoothing: Floats | None = None
    correction: Floats | None = None

    @classmethod
    def of_range(cls, low: float, high: float) -> Self:
        """Return the quantization of the range low … high, extended to include 0.

        Padding and pruned units need an exact 0.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max(high - low, 1e-8) / 255.0
        return cls(float(np.float32(scale)), int(np.clip(round(-low / scale), 0, 255)))

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest value that can be represented."""
        return -self.zero_point * self.scale, (255 - self.zero_point) * self.scale

    def smoothed(self, values: Floats) -> Floats:
        """Return values (rows, inputs) times `smoothing`, before quantization."""
        return values if self.smoothing is None else values * self.smoothing

    def smoothed_weight(self, weight: Floats) -> Floats:
        """Return the matrix (inputs, outputs) divided by `smoothing`, for smoothed inputs."""
        return weight if self.smoothing is None else weight / self.smoothing[:, None]

    def rounded(self, values: Floats) -> Floats:
        """Return smoothed values after quantization and dequantization, as the int8 product reads them."""
        scale = np.float32(self.scale)
        steps = np.clip(np.rint(values / scale) + self.zero_point, 0, 255) - self.zero_point
        return np.asarray(steps * scale, dtype=np.float32)


# Keys are names of matrices: encoder.layers.0.attention.qkv, …output, …ffn.rise, …fall. The query of the last layer,
# which is computed from the first token only, is encoder.layers.N.attention.qkv.query; its …qkv are keys and values.
Scales = Mapping[str, Activation]


def quantized_weight(weight: Floats, bits: int) -> tuple[NDArray[np.int8], Floats]:
    """Quantize a matrix (inputs, outputs) to int8 values of `bits` bits, with one scale per column (outputs,)."""
    largest = 2 ** (bits - 1) - 1
    scale = np.maximum(np.abs(weight).max(axis=0), 1e-8).astype(np.float32) / np.float32(largest)
    return np.rint(weight / scale).astype(np.int8), scale
