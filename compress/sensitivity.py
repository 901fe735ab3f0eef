"""fall_back(): the sublayers that lose most for what they save stay in fp32, until int8 is inside the loss.

Each sublayer's harm is measured with it alone in int8; it is weighed against the multiply-adds that int8 makes
cheaper (NNCF ranks by error alone and reverts greedily: a cheap sublayer would stay and a dear one go).
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

from export.agreement import Agreement
from export.precision import PARTS, Part, Precision
from models.architecture import Architecture
from models.record import Record

RANKED_ROWS = 128  # on which sublayers are compared: mean |Δlogit| wavers far less than a count of labels
TABLE = "embeddings"  # its name among what falls back
Measure = Callable[[Precision, int | None], Agreement]


class Sublayer(Record):
    """One attention or FFN, what it does to the logits when it alone is int8, and what it costs to compute."""

    layer: int
    part: Part
    mean_difference: float
    multiply_adds: int  # of a text of the calibration's mean length

    @property
    def name(self) -> str:
        """Name for people."""
        return f"layer {self.layer} {self.part}"

    @property
    def harm(self) -> float:
        """Squared error a multiply-add: independent errors add up in squares."""
        return self.mean_difference**2 / self.multiply_adds


@dataclass(frozen=True, slots=True)
class Fallen:
    """The precision that is inside the loss, or the last that was tried; and what stays in fp32, worst first."""

    precision: Precision
    agreement: Agreement
    kept: tuple[Sublayer, ...] = ()
    wider_table: bool = False  # the token table has 8 bits: 4 alone lost too much

    @property
    def names(self) -> tuple[str, ...]:
        """What is not as it was wanted, such as "5.ffn", or the token table."""
        return (TABLE,) * self.wider_table + tuple(f"{one.layer}.{one.part}" for one in self.kept)


def fall_back(
    shape: Architecture, start: Precision, measure: Measure, max_loss: float, tokens: float
) -> Fallen:  # fmt: skip
    """Return the precision with the fewest sublayers in fp32 whose loss is at most `max_loss` points.

    Nothing but `start` is measured when that is inside already. A token table in 4 bits that loses more by itself
    has 8 first.

    Args:
        shape: of the model.
        start: every sublayer in int8, or what a search chose.
        measure: precision → agreement with fp32, on so many rows (None: all).
        max_loss: in points, as `Agreement.loss_points`.
        tokens: mean length of a text.
    """
    agreement = measure(start, None)
    if agreement.loss_points <= max_loss:
        return Fallen(start, agreement)
    wider, start = _table_that_is_inside(shape, start, measure, max_loss)
    if wider and (agreement := measure(start, None)).loss_points <= max_loss:
        return Fallen(start, agreement, wider_table=True)
    precision, kept = start, list[Sublayer]()
    for sublayer in rank(shape, start, measure, tokens):
        precision = precision.replaced(sublayer.layer, sublayer.part, "fp32")
        kept.append(sublayer)
        agreement = measure(precision, None)
        sys.stderr.write(
            f"prunella: {sublayer.name} stays in fp32: int8 then loses {agreement.loss_points:.2f} points of the "
            f"{max_loss:g} that are allowed\n"
        )
        if agreement.loss_points <= max_loss:
            break
    return Fallen(precision, agreement, tuple(kept), wider)


def _table_that_is_inside(
    shape: Architecture, start: Precision, measure: Measure, max_loss: float
) -> tuple[bool, Precision]:
    """Return whether a token table in 4 bits is outside the loss by itself, and `start` with 8 if it is."""
    if start.embedding_bits == 8:
        return False, start
    alone = measure(start.model_copy(update={"layers": Precision.all_fp32(shape).layers}), None)
    if alone.loss_points <= max_loss:
        return False, start
    sys.stderr.write(
        f"prunella: WARNING: the token table stays in 8 bits: 4 alone lose {alone.loss_points:.2f} points of the "
        f"{max_loss:g} that are allowed\n"
    )
    return True, start.model_copy(update={"embedding_bits": 8})


def rank(shape: Architecture, start: Precision, measure: Measure, tokens: float) -> list[Sublayer]:
    """Return the sublayers that there are, the most harmful for what it saves first."""
    nothing = start.model_copy(update={"layers": Precision.all_fp32(shape).layers})
    found = []
    for index, part in sublayers(shape):
        if getattr(start.layers[index], part) == "fp32":
            continue
        error = measure(nothing.replaced(index, part, "int8"), RANKED_ROWS).mean_difference
        cost = multiply_adds(shape, index, part, tokens)
        found.append(Sublayer(layer=index, part=part, mean_difference=error, multiply_adds=cost))
    return sorted(found, key=lambda s: s.harm, reverse=True)


def sublayers(shape: Architecture) -> list[tuple[int, Part]]:
    """Return layer and part of each sublayer that was not cut off."""
    there = [(layer.heads, layer.ffn) for layer in shape.layers]
    return [(i, part) for i, sizes in enumerate(there) for part, size in zip(PARTS, sizes, strict=True) if size]


def multiply_adds(shape: Architecture, index: int, part: Part, tokens: float) -> int:
    """Return the multiply-adds of a sublayer's constant matrices; the last layer answers for the first token only."""
    layer, answered = shape.layers[index], 1 if shape.first_only(index) else tokens
    if part == "ffn":
        matrices = 2 if shape.modern is None else 3  # GeGLU rises twice
        return round(matrices * shape.width * layer.ffn * answered)
    inner = layer.heads * shape.head_size
    return round(shape.width * inner * (2 * tokens + 2 * answered))
