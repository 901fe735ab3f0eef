"""fall_back_to_fp32(): keep sublayers in fp32, the most harmful for their savings first, until the loss is allowed.

The error of each sublayer is measured with only this sublayer in int8, and divided by the multiply-adds that int8
makes cheaper. (NNCF ranks by error alone and reverts greedily: it may revert an expensive sublayer and keep a cheap
one in int8.)
"""

from collections.abc import Callable
from dataclasses import dataclass

from export.agreement import Agreement
from export.graph_precision import Precision
from models.architecture import Architecture
from models.messages import say
from models.schema import Record
from models.sublayer import Part, SublayerId

RANKING_ROWS = 128  # for the comparison of sublayers: mean |Δlogit| varies far less than a count of labels
EMBEDDINGS = "embeddings"  # name of the token embeddings in `FallbackResult.names`
Measure = Callable[[Precision, int | None], Agreement]


class RankedSublayer(Record):
    """One attention or FFN, the error of the logits when it alone is int8, and its computational cost."""

    layer: int
    part: Part
    mean_difference: float
    multiply_adds: int  # for a text of mean length

    @property
    def name(self) -> str:
        """Name in messages."""
        return f"layer {self.layer} {self.part}"

    @property
    def harm(self) -> float:
        """Squared error per multiply-add; squared, because independent errors add up in squares."""
        return self.mean_difference**2 / self.multiply_adds


@dataclass(frozen=True, slots=True)
class FallbackResult:
    """The accepted (or last tried) precision, and the sublayers moved back to fp32, in this order."""

    precision: Precision
    agreement: Agreement
    fp32_sublayers: tuple[RankedSublayer, ...] = ()
    embedding_kept_int8: bool = False  # the token embeddings have 8 bits, because 4 bits alone lose too much

    @property
    def names(self) -> tuple[str, ...]:
        """What has more bits than requested: keys of sublayers such as "5.ffn", or EMBEDDINGS."""
        sublayer_keys = tuple(SublayerId(one.layer, one.part).key for one in self.fp32_sublayers)
        return (EMBEDDINGS, *sublayer_keys) if self.embedding_kept_int8 else sublayer_keys


def fall_back_to_fp32(
    shape: Architecture, start: Precision, measure: Measure, max_loss: float, tokens: float
) -> FallbackResult:  # fmt: skip
    """Return a precision with few sublayers in fp32 and a loss of at most `max_loss` points.

    If the loss of `start` is allowed, nothing else is measured. Otherwise, if token embeddings in 4 bits lose too
    much by themselves, they get 8 bits. Then sublayers are moved back to fp32 one by one.

    Args:
        shape: architecture of the model.
        start: every sublayer in int8, or the precision that a search chose.
        measure: returns the agreement of a precision with fp32, on the given number of rows (None: all).
        max_loss: in points, as `Agreement.loss_points`.
        tokens: mean length of a text.
    """
    agreement = measure(start, None)
    if agreement.loss_points <= max_loss:
        return FallbackResult(start, agreement)
    widened, start = _widen_embeddings(shape, start, measure, max_loss)
    if widened and (agreement := measure(start, None)).loss_points <= max_loss:
        return FallbackResult(start, agreement, embedding_kept_int8=True)
    precision, fp32_sublayers = start, list[RankedSublayer]()
    for sublayer in rank(shape, start, measure, tokens):
        precision = precision.replaced(sublayer.layer, sublayer.part, "fp32")
        fp32_sublayers.append(sublayer)
        agreement = measure(precision, None)
        say(
            f"{sublayer.name} stays in fp32: int8 then loses {agreement.loss_points:.2f} points, {max_loss:g} are "
            "allowed"
        )
        if agreement.loss_points <= max_loss:
            break
    return FallbackResult(precision, agreement, tuple(fp32_sublayers), widened)


def _widen_embeddings(
    shape: Architecture, start: Precision, measure: Measure, max_loss: float
) -> tuple[bool, Precision]:
    """Return `start` with token embeddings in 8 bits if 4 bits alone lose too much, and whether this is so."""
    if start.embedding_bits == 8:
        return False, start
    agreement = measure(start.model_copy(update={"layers": Precision.all_fp32(shape).layers}), None)
    if agreement.loss_points <= max_loss:
        return False, start
    say(
        f"WARNING: the token embeddings stay in 8 bits: 4 bits alone lose {agreement.loss_points:.2f} points, "
        f"{max_loss:g} are allowed"
    )
    return True, start.model_copy(update={"embedding_bits": 8})


def rank(shape: Architecture, start: Precision, measure: Measure, tokens: float) -> list[RankedSublayer]:
    """Return the int8 sublayers of `start`, the one with the most harm first."""
    all_fp32 = start.model_copy(update={"layers": Precision.all_fp32(shape).layers})
    ranked = []
    for sublayer in sublayers(shape):
        if start.of(sublayer) == "fp32":
            continue
        index, part = sublayer
        error = measure(all_fp32.replaced(index, part, "int8"), RANKING_ROWS).mean_difference
        cost = multiply_adds(shape, index, part, tokens)
        ranked.append(RankedSublayer(layer=index, part=part, mean_difference=error, multiply_adds=cost))
    return sorted(ranked, key=lambda s: s.harm, reverse=True)


def sublayers(shape: Architecture) -> list[SublayerId]:
    """Return the sublayers of the model, without those that pruning removed."""
    return [sublayer for sublayer in SublayerId.all_of(len(shape.layers)) if shape.width_of(sublayer)]


def multiply_adds(shape: Architecture, index: int, part: Part, tokens: float) -> int:
    """Return the multiply-adds of a sublayer's weight matrices for a text of `tokens` tokens.

    The last layer may compute its output for the first token only (`Architecture.first_only`).
    """
    layer, outputs = shape.layers[index], 1 if shape.first_only(index) else tokens
    if part == "ffn":
        matrices = 2 if shape.modern is None else 3  # GeGLU has two up projections
        return round(matrices * shape.width * layer.ffn * outputs)
    inner = layer.heads * shape.head_size
    return round(shape.width * inner * (2 * tokens + 2 * outputs))  # key, value; query, output
