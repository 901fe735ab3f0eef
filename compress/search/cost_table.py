"""CostTable: seconds or bytes of each sublayer at each width and precision, and of the rest of the model."""

from collections.abc import Callable

from compress.pruning.widths import widths
from export.graph_precision import EmbeddingBits, Kind, Precision
from models.architecture import Architecture
from models.encoders.deberta_encoder import position_rows
from models.schema import Record
from models.sublayer import SublayerId


class Amounts(Record):
    """Seconds or bytes of a sublayer by its width, in one precision."""

    attention: dict[int, float]  # heads → amount
    ffn: dict[int, float]  # neurons → amount
    last_attention: dict[int, float]  # in the last layer only the first token passes through the output matrix
    last_ffn: dict[int, float]  # and through the FFN


class CostTable(Record):
    """Amounts by precision and width, all in one unit. `fixed` is the amount of an encoder without sublayers."""

    fixed: float
    embedding_bits: EmbeddingBits = 8  # of the token table, in `fixed`
    int8: Amounts
    fp32: Amounts

    def amounts(self, name: str, layers: int, kind: Kind = "int8") -> dict[int, float]:
        """Return width → amount of the sublayer `name` of an encoder with `layers` layers."""
        sublayer = SublayerId.parse(name)
        amounts = self.int8 if kind == "int8" else self.fp32
        last = sublayer.layer == layers - 1
        if sublayer.part == "attention":
            return amounts.last_attention if last else amounts.attention
        return amounts.last_ffn if last else amounts.ffn

    def total(self, shape: Architecture, precision: Precision) -> float:
        """Return the predicted amount of an architecture; its widths must be in the table."""
        total, count = self.fixed, len(shape.layers)
        for sublayer in SublayerId.all_of(count):
            total += self.amounts(sublayer.key, count, precision.of(sublayer))[shape.width_of(sublayer)]
        return total


def size_cost_table(shape: Architecture, fixed: float) -> CostTable:
    """Return the bytes of matrices, int8 ones with an fp32 scale a column; `fixed` is the file without sublayers."""
    return CostTable(fixed=fixed, int8=_sizes(shape, 1, 8), fp32=_sizes(shape, 4, 4))


def _sizes(shape: Architecture, weight: int, column: int) -> Amounts:
    """Return the bytes of sublayers, with `weight` bytes for a weight and `column` for a column's bias and scale."""
    heads, neurons = widths(shape)
    inner = {h: h * shape.head_size for h in heads}

    def sizes(choices: list[int], size: Callable[[int], float]) -> dict[int, float]:
        return {width: float(size(width)) if width else 0.0 for width in choices}

    def attention(rows: int) -> dict[int, float]:
        columns = column * 3 + weight * rows + (0 if weight == 4 else 4 * rows / shape.head_size)  # with a scale each
        return sizes(heads, lambda h: weight * 4 * inner[h] * shape.width + columns * inner[h] + 4 * shape.width)

    up = 1 if shape.modern is None else 2  # up projections; GeGLU has two: the activation's input, and its factor
    ffn = sizes(neurons, lambda n: weight * (up + 1) * n * shape.width + column * up * n + 4 * shape.width)
    own, last = _position_rows(shape)
    return Amounts(attention=attention(own), ffn=ffn, last_attention=attention(last), last_ffn=ffn)


def _position_rows(shape: Architecture) -> tuple[int, int]:
    """Return the rows of a DeBERTa's keys and queries of positions in a layer's graph, and in the last layer's."""
    if shape.deberta is None or not shape.deberta.relative:
        return 0, 0
    rows, parts = position_rows(shape.positions, shape.deberta), shape.deberta.parts - 1
    return parts * (int(rows[-1] - rows[0]) + 1), parts * shape.positions
