"""BudgetTable: what each sublayer takes at each width and precision, and the rest: in seconds, or in bytes."""

from collections.abc import Callable

from export.precision import EmbeddingBits, Kind, Precision
from models.architecture import Architecture
from models.record import Record

SHARES = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 5 / 16, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8)  # of the neurons


class Amounts(Record):
    """What a sublayer takes by its width, in one precision."""

    attention: dict[int, float]  # heads → amount
    ffn: dict[int, float]  # neurons → amount
    last_attention: dict[int, float]  # in the last layer only the first token passes through the output matrix
    last_ffn: dict[int, float]  # and through the FFN


class BudgetTable(Record):
    """Amounts by precision and width, all in one unit. `fixed` is an encoder that has no sublayer left."""

    fixed: float
    embedding_bits: EmbeddingBits = 8  # of the token table, in `fixed`
    int8: Amounts
    fp32: Amounts

    def amounts(self, name: str, layers: int, kind: Kind = "int8") -> dict[int, float]:
        """Return width → amount of the sublayer `name` of an encoder with so many layers."""
        index, part = name.split(".")
        amounts = self.int8 if kind == "int8" else self.fp32
        last = int(index) == layers - 1
        if part == "attention":
            return amounts.last_attention if last else amounts.attention
        return amounts.last_ffn if last else amounts.ffn

    def total(self, shape: Architecture, precision: Precision) -> float:
        """Return what an architecture takes; its widths must be in the table."""
        total, count = self.fixed, len(shape.layers)
        for index, (layer, kinds) in enumerate(zip(shape.layers, precision.layers, strict=True)):
            total += self.amounts(f"{index}.attention", count, kinds.attention)[layer.heads]
            total += self.amounts(f"{index}.ffn", count, kinds.ffn)[layer.ffn]
        return total


def widths(shape: Architecture) -> tuple[list[int], list[int]]:
    """Return the numbers of heads and of neurons to choose from: neurons in multiples of 32."""
    heads = max(layer.heads for layer in shape.layers)
    ffn = max(layer.ffn for layer in shape.layers)
    neurons = {0, ffn} | {max(32, round(ffn * share / 32) * 32) for share in SHARES}
    return list(range(heads + 1)), sorted(n for n in neurons if n <= ffn)


def size_table(shape: Architecture, fixed: float) -> BudgetTable:
    """Return bytes of matrices, int8 ones with an fp32 scale a column; `fixed` is the file without sublayers."""
    return BudgetTable(fixed=fixed, int8=_sizes(shape, 1, 8), fp32=_sizes(shape, 4, 4))


def _sizes(shape: Architecture, weight: int, column: int) -> Amounts:
    """Return bytes where a weight takes `weight` bytes, and a column's bias and scale `column`."""
    heads, neurons = widths(shape)
    inner = {h: h * shape.head_size for h in heads}

    def of(sizes: list[int], size: Callable[[int], int]) -> dict[int, float]:
        return {width: float(size(width)) if width else 0.0 for width in sizes}

    attention = of(heads, lambda h: weight * 4 * inner[h] * shape.width + column * 3 * inner[h] + 4 * shape.width)
    rises = 1 if shape.modern is None else 2  # GeGLU: what is bent, and its factor
    ffn = of(neurons, lambda n: weight * (rises + 1) * n * shape.width + column * rises * n + 4 * shape.width)
    return Amounts(attention=attention, ffn=ffn, last_attention=attention, last_ffn=ffn)
