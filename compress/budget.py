"""BudgetTable: what each sublayer takes at each width, and the rest: in seconds, or in bytes."""

from models.architecture import Architecture
from models.record import Record

SHARES = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 5 / 16, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8)  # of the neurons


class BudgetTable(Record):
    """Amounts by width, all in one unit. `fixed` is an encoder that has no sublayer left."""

    fixed: float
    attention: dict[int, float]  # heads → amount
    ffn: dict[int, float]  # neurons → amount
    last_attention: dict[int, float]  # in the last layer only the first token passes through the output matrix
    last_ffn: dict[int, float]  # and through the FFN

    def amounts(self, name: str, layers: int) -> dict[int, float]:
        """Return width → amount of the sublayer `name` of an encoder with so many layers."""
        index, kind = name.split(".")
        last = int(index) == layers - 1
        if kind == "attention":
            return self.last_attention if last else self.attention
        return self.last_ffn if last else self.ffn

    def total(self, shape: Architecture) -> float:
        """Return what an architecture takes; its widths must be in the table."""
        total, count = self.fixed, len(shape.layers)
        for index, layer in enumerate(shape.layers):
            total += self.amounts(f"{index}.attention", count)[layer.heads]
            total += self.amounts(f"{index}.ffn", count)[layer.ffn]
        return total


def widths(shape: Architecture) -> tuple[list[int], list[int]]:
    """Return the numbers of heads and of neurons to choose from: neurons in multiples of 32."""
    heads = max(layer.heads for layer in shape.layers)
    ffn = max(layer.ffn for layer in shape.layers)
    neurons = {0, ffn} | {max(32, round(ffn * share / 32) * 32) for share in SHARES}
    return list(range(heads + 1)), sorted(n for n in neurons if n <= ffn)


def size_table(shape: Architecture, fixed: float) -> BudgetTable:
    """Return bytes of int8 matrices with an fp32 scale and bias a column; `fixed` is the file without sublayers."""
    heads, neurons = widths(shape)
    inner = {h: h * shape.head_size for h in heads}
    attention = {h: float(4 * inner[h] * shape.width + 8 * 3 * inner[h] + 4 * shape.width) for h in heads}
    ffn = {n: float(2 * n * shape.width + 8 * n + 4 * shape.width) for n in neurons}
    attention[0] = ffn[0] = 0.0
    return BudgetTable(fixed=fixed, attention=attention, ffn=ffn, last_attention=attention, last_ffn=ffn)
