"""Architecture: the shape of an encoder, layer by layer, after whatever was cut from it."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from models.record import Record

FILE = "architecture.json"
SHAPE = ", heads/ffn "  # before the shape in a summary
FamilyName = Literal["bert", "roberta", "xlm-roberta", "distilbert", "electra", "modernbert"]


class LayerShape(Record):
    """What is left of one layer. Zero means that the sublayer was dropped: its output bias and its norm stay."""

    heads: int = Field(ge=0, description="attention heads")
    ffn: int = Field(ge=0, description="neurons between the two FFN matrices")


class ModernSettings(Record):
    """What only ModernBERT has to say: its positions, its windows, and which of its parts have a bias."""

    global_theta: float = Field(160_000.0, gt=0, description="base of the rotary angles where all tokens are seen")
    local_theta: float = Field(10_000.0, gt=0, description="base of the rotary angles where neighbours are seen")
    global_every: int = Field(3, gt=0, description="layer 0 and every so manieth after it see all tokens")
    window: int = Field(128, gt=0, description="tokens that the other layers see, half of them on each side")
    attention_bias: bool = False
    ffn_bias: bool = False
    norm_bias: bool = False
    head_bias: bool = False


class Architecture(Record):
    """The shape of an encoder of one of the known families. Widths may differ from layer to layer."""

    family: FamilyName = "bert"
    vocabulary: int = Field(gt=0, description="rows of the token embedding table")
    positions: int = Field(gt=0, description="longest input in tokens")
    token_types: int = Field(ge=0, description="rows of the segment embedding table; 0: there is none")
    width: int = Field(gt=0, description="size of a token's hidden state")
    embedding_width: int | None = Field(None, gt=0, description="size of a table's row, where it is not `width`")
    head_size: int = Field(gt=0, description="width of one attention head")
    layers: tuple[LayerShape, ...]
    norm_epsilon: float = Field(1e-12, gt=0)
    pad_id: int = Field(0, ge=0, description="id of the padding token")
    pooling: Literal["cls", "mean"] = Field("cls", description="what the head reads: the first token, or the mean")
    modern: ModernSettings | None = Field(None, description="settings of a modernbert, and of no other family")

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if not self.layers:
            raise ValueError("an encoder needs at least one layer")
        if (self.modern is not None) != (self.family == "modernbert"):
            raise ValueError(f"`modern` belongs to a modernbert and to no other, this is a {self.family}")
        if (self.token_types == 0) != (self.family in ("distilbert", "modernbert")):
            raise ValueError(f"a {self.family} cannot have {self.token_types} token types")
        if self.embedding_width is not None and self.family != "electra":
            raise ValueError(f"a {self.family} has tables of its width: only an electra has others")
        if self.pooling != "cls" and self.family != "modernbert":
            raise ValueError(f"the head of a {self.family} reads the first token: only a modernbert's reads the mean")
        return self

    @property
    def table_width(self) -> int:
        """Size of a row of the embedding tables."""
        return self.embedding_width or self.width

    @property
    def head_activation(self) -> Literal["tanh", "relu", "gelu"]:
        """What bends the classification head between its two matrices."""
        match self.family:
            case "distilbert":
                return "relu"
            case "electra" | "modernbert":
                return "gelu"
            case _:
                return "tanh"

    def first_only(self, index: int) -> bool:
        """Whether only the first token is read of what layer `index` makes: it is the last, and the head's is cls."""
        return self.pooling == "cls" and index == len(self.layers) - 1

    def with_layers(self, shapes: Sequence[tuple[int, int]]) -> "Architecture":
        """Return the same architecture with `(heads, ffn)` per layer."""
        return self.model_copy(update={"layers": tuple(LayerShape(heads=h, ffn=f) for h, f in shapes)})

    def is_uniform(self) -> bool:
        """Whether a Hugging Face config can say this shape: equal layers whose heads fill the width."""
        first = self.layers[0]
        return len(set(self.layers)) == 1 and first.heads * self.head_size == self.width and first.ffn > 0

    def shape(self) -> str:
        """Return heads/neurons of each layer."""
        return " ".join(f"{layer.heads}/{layer.ffn}" for layer in self.layers)

    def summary(self) -> str:
        """Return the shape in one line, for people."""
        return f"{len(self.layers)} layers, width {self.width}{SHAPE}{self.shape()}"


def shape_in(summary: str) -> str:
    """Return heads/neurons of each layer, as `summary()` told them."""
    return summary.rpartition(SHAPE)[2]
