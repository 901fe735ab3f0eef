"""Architecture: the shape of an encoder, layer by layer, before or after pruning."""

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from models.schema import Record
from models.sublayer import SublayerId

FILE = "architecture.json"
SHAPE = ", heads/ffn "  # separates the shape from the rest of a summary
FamilyName = Literal[
    "bert", "ernie", "roberta", "xlm-roberta", "mpnet", "distilbert", "electra", "modernbert", "deberta-v2"
]  # fmt: skip


Pooling = Literal["cls", "mean"]
Activation = Literal["gelu", "gelu_tanh", "relu"]


class LayerShape(Record):
    """Size of one layer. Zero means that the sublayer was removed; its output bias and its norm remain."""

    heads: int = Field(ge=0, description="number of attention heads")
    ffn: int = Field(ge=0, description="number of neurons between the two FFN matrices")


class ModernSettings(Record):
    """Settings that only ModernBERT has: rotary positions, attention windows, and which modules have a bias."""

    global_theta: float = Field(160_000.0, gt=0, description="base of the rotary angles in global attention layers")
    local_theta: float = Field(10_000.0, gt=0, description="base of the rotary angles in local attention layers")
    global_every: int = Field(3, gt=0, description="every N-th layer, starting at 0, attends to all tokens")
    window: int = Field(128, gt=0, description="tokens that the other layers attend to, half of them on each side")
    attention_bias: bool = False
    ffn_bias: bool = False
    norm_bias: bool = False
    head_bias: bool = False


class RelativeBias(Record):
    """Size of the table of the bias that MPNet adds to the attention scores; all layers share the table."""

    buckets: int = Field(32, ge=32, description="rows; the first 32 are the classes of distances")
    heads: int = Field(gt=0, description="columns: the heads of a layer before pruning")


class DebertaSettings(Record):
    """Settings that only DeBERTa-v2 and v3 have: which relative positions the attention scores include, and how."""

    relative: bool = Field(True, description="whether there is a table of relative positions")
    c2p: bool = Field(True, description="scores of queries with the keys of positions; scales the scores in any case")
    p2c: bool = Field(True, description="scores of keys with the queries of positions; scales the scores in any case")
    share_key: bool = Field(True, description="positions use the query and key matrices of the tokens")
    buckets: int = Field(
        0, ge=0, description="rows of the table for each direction; far distances share one; 0: span"
    )
    span: int = Field(gt=0, description="distances beyond it count as it")
    norm_relative: bool = Field(False, description="whether the table of relative positions has a norm")
    absolute: bool = Field(False, description="whether the embeddings include absolute positions")
    pooler_activation: Literal["tanh", "relu", "gelu"] = "gelu"

    @property
    def parts(self) -> int:
        """Number of products that a score is the sum of; scores are divided by sqrt(parts · head_size)."""
        return 1 + self.c2p + self.p2c

    @property
    def rows(self) -> int:
        """Rows of the table of relative positions for each direction; the table has twice as many."""
        return self.buckets or self.span


class Architecture(Record):
    """The shape of an encoder of a supported family. Layers may have different numbers of heads and neurons."""

    family: FamilyName = "bert"
    vocabulary: int = Field(gt=0, description="number of rows of the token embedding table")
    positions: int = Field(gt=0, description="maximum input length in tokens")
    token_types: int = Field(ge=0, description="number of rows of the segment embedding table; 0: there is no table")
    width: int = Field(gt=0, description="hidden size of the encoder")
    embedding_width: int | None = Field(None, gt=0, description="row size of the embedding tables if not `width`")
    head_size: int = Field(gt=0, description="size of one attention head")
    layers: tuple[LayerShape, ...]
    norm_epsilon: float = Field(1e-12, gt=0)
    activation: Activation = Field("gelu", description="of the FFNs; `gelu_tanh` is the approximation with tanh")
    pad_id: int = Field(0, ge=0, description="id of the padding token")
    pooling: Pooling = Field("cls", description="input of the head: the first token or the mean")
    head: Literal["dense", "linear", "unit"] = Field(
        "dense", description="two layers with an activation; one layer; one layer on the input divided by its L2 norm"
    )
    modern: ModernSettings | None = Field(None, description="settings of modernbert; None for all other families")
    relative: RelativeBias | None = Field(None, description="the bias table of mpnet; None for all other families")
    deberta: DebertaSettings | None = Field(None, description="settings of deberta-v2; None for all other families")

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if not self.layers:
            raise ValueError("an encoder needs at least one layer")
        if (self.modern is not None) != (self.family == "modernbert"):
            raise ValueError(f"`modern` must be set for modernbert and for no other family: this is {self.family}")
        if (self.deberta is not None) != (self.family == "deberta-v2"):
            raise ValueError(f"`deberta` must be set for deberta-v2 and for no other family: this is {self.family}")
        if (self.relative is not None) != (self.family == "mpnet"):
            raise ValueError(f"`relative` must be set for mpnet and for no other family: this is {self.family}")
        if self.relative is not None and any(layer.heads > self.relative.heads for layer in self.layers):
            raise ValueError(f"a layer has more heads than the table of relative positions: {self.relative.heads}")
        if self.deberta is None and (self.token_types == 0) != (self.family in ("distilbert", "mpnet", "modernbert")):
            raise ValueError(f"a {self.family} cannot have {self.token_types} token types")
        if self.modern is not None and self.activation != "gelu":
            raise ValueError(f"the activation of a {self.family} is gelu, not {self.activation}")
        if self.embedding_width is not None and self.family != "electra":
            raise ValueError(f"a {self.family} has no `embedding_width`: only electra has one")
        return self

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        # the ids of folders may depend on this dump: it stays as it was before these fields
        if self.head == "dense":
            fields.pop("head", None)
        if self.activation == "gelu":
            fields.pop("activation", None)
        return fields

    @property
    def table_width(self) -> int:
        """Row size of the embedding tables."""
        return self.embedding_width or self.width

    @property
    def has_position_table(self) -> bool:
        """Whether the embeddings include absolute positions."""
        return self.modern is None and (self.deberta is None or self.deberta.absolute)

    @property
    def head_activation(self) -> Literal["tanh", "relu", "gelu"]:
        """Activation between the two linear layers of the classification head."""
        if self.deberta is not None:
            return self.deberta.pooler_activation
        match self.family:
            case "distilbert":
                return "relu"
            case "electra" | "modernbert":
                return "gelu"
            case _:
                return "tanh"

    def first_only(self, index: int) -> bool:
        """True for the last layer if the head pools [CLS]: only the first position of its output is needed."""
        return self.pooling == "cls" and index == len(self.layers) - 1

    def width_of(self, sublayer: SublayerId) -> int:
        """Return how many heads or FFN neurons a sublayer has."""
        layer = self.layers[sublayer.layer]
        return layer.heads if sublayer.part == "attention" else layer.ffn

    def with_layers(self, shapes: Sequence[tuple[int, int]]) -> "Architecture":
        """Return a copy of the architecture with these `(heads, ffn)` of each layer."""
        return self.model_copy(update={"layers": tuple(LayerShape(heads=h, ffn=f) for h, f in shapes)})

    def is_uniform(self) -> bool:
        """Whether a Hugging Face config can describe this shape: equal layers whose heads fill the width."""
        first = self.layers[0]
        if self.relative is not None and self.relative.heads != first.heads:
            return False
        return len(set(self.layers)) == 1 and first.heads * self.head_size == self.width and first.ffn > 0

    def is_in_transformers(self) -> bool:
        """Whether transformers has a class for this shape and this head."""
        has_head = self.head == "dense" and (self.pooling == "cls" or self.family == "modernbert")
        return has_head and self.is_uniform()

    def shape(self) -> str:
        """Return heads/neurons of each layer, separated by spaces."""
        return " ".join(f"{layer.heads}/{layer.ffn}" for layer in self.layers)

    def summary(self) -> str:
        """Return a human-readable description of the shape on one line."""
        return f"{len(self.layers)} layers, width {self.width}{SHAPE}{self.shape()}"


def shape_in(summary: str) -> str:
    """Return the part of a `summary()` that lists heads/neurons of each layer."""
    return summary.rpartition(SHAPE)[2]
