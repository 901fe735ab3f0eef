"""Precision and Scales: which sublayers are int8, and how their activations become int8."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from models.architecture import Architecture
from models.record import Record

Kind = Literal["fp32", "int8"]
FILE = "precision.json"  # in a folder of weights: how the search wants them computed
KINDS: tuple[Kind, ...] = ("int8", "fp32")
EmbeddingBits = Literal[4, 8]
Part = Literal["attention", "ffn"]
PARTS: tuple[Part, ...] = ("attention", "ffn")
Floats = NDArray[np.float32]


class LayerPrecision(Record):
    """How the matrices of one layer are computed."""

    attention: Kind = "int8"
    ffn: Kind = "int8"


class Precision(Record):
    """How each layer is computed, and how wide rounded weights are.

    Of matrices: 7 bits never saturate on processors without VNNI. Of the token table: 4 take half the space.
    """

    layers: tuple[LayerPrecision, ...]
    weight_bits: Literal[7, 8] = 8
    embedding_bits: EmbeddingBits = 8
    smoothed: tuple[str, ...] | None = None  # matrices of `Scales` whose input is smoothed; None: wherever it pays

    @classmethod
    def all_int8(cls, shape: Architecture, weight_bits: Literal[7, 8] = 8, embedding_bits: EmbeddingBits = 8) -> Self:
        """Return the precision in which every sublayer is int8."""
        layers = (LayerPrecision(),) * len(shape.layers)
        return cls(layers=layers, weight_bits=weight_bits, embedding_bits=embedding_bits)

    @classmethod
    def all_fp32(cls, shape: Architecture) -> Self:
        """Return the precision in which no sublayer is int8."""
        return cls(layers=(LayerPrecision(attention="fp32", ffn="fp32"),) * len(shape.layers))

    def replaced(self, layer: int, part: Part, kind: Kind) -> Self:
        """Return the same precision with one sublayer changed."""
        layers = list(self.layers)
        layers[layer] = layers[layer].model_copy(update={part: kind})
        return self.model_copy(update={"layers": tuple(layers)})


@dataclass(frozen=True, slots=True)
class Activation:
    """How the input x of one matrix becomes u8: round(x * smoothing / scale) + zero_point, cut to 0 … 255.

    `smoothing` (inputs,) brings columns of outliers nearer to the rest; the matrix's rows are divided by it.
    `correction` (outputs,) is added to the matrix's bias: what rounding took from its output on average.
    """

    scale: float
    zero_point: int
    smoothing: Floats | None = None
    correction: Floats | None = None

    @classmethod
    def of_range(cls, low: float, high: float) -> Self:
        """Return the scale that covers low … high and 0, which padding and dropped units need exactly."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max(high - low, 1e-8) / 255.0
        return cls(float(np.float32(scale)), int(np.clip(round(-low / scale), 0, 255)))

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest value that are told apart."""
        return -self.zero_point * self.scale, (255 - self.zero_point) * self.scale

    def smoothed(self, values: Floats) -> Floats:
        """Return values (rows, inputs) times `smoothing`: what is rounded."""
        return values if self.smoothing is None else values * self.smoothing

    def smoothed_weight(self, weight: Floats) -> Floats:
        """Return the matrix (inputs, outputs) that takes smoothed values."""
        return weight if self.smoothing is None else weight / self.smoothing[:, None]

    def rounded(self, values: Floats) -> Floats:
        """Return smoothed values after rounding, as floats: what the int8 product sees."""
        scale = np.float32(self.scale)
        steps = np.clip(np.rint(values / scale) + self.zero_point, 0, 255) - self.zero_point
        return np.asarray(steps * scale, dtype=np.float32)


# By matrix: encoder.layers.0.attention.qkv, …output, …ffn.rise, …fall; the last layer's query, which is made of the
# first token only, is encoder.layers.N.attention.qkv.query, and …qkv are its keys and values.
Scales = Mapping[str, Activation]


def quantized_weight(weight: Floats, bits: int) -> tuple[NDArray[np.int8], Floats]:
    """Return the int8 form of a matrix (inputs, outputs) and the scale of each column (outputs,)."""
    most = 2 ** (bits - 1) - 1
    scale = np.maximum(np.abs(weight).max(axis=0), 1e-8).astype(np.float32) / np.float32(most)
    return np.rint(weight / scale).astype(np.int8), scale
