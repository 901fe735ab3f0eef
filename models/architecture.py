"""Architecture: the shape of an encoder, layer by layer, after whatever was cut from it."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from models.record import Record

FILE = "architecture.json"


class LayerShape(Record):
    """What is left of one layer. Zero means that the sublayer was dropped: its output bias and its norm stay."""

    heads: int = Field(ge=0, description="attention heads")
    ffn: int = Field(ge=0, description="neurons between the two FFN matrices")


class Architecture(Record):
    """The shape of a BERT-family encoder. Widths may differ from layer to layer."""

    family: Literal["bert"] = "bert"
    vocabulary: int = Field(gt=0, description="rows of the token embedding table")
    positions: int = Field(gt=0, description="longest input in tokens")
    token_types: int = Field(gt=0, description="rows of the segment embedding table")
    width: int = Field(gt=0, description="size of a token's hidden state")
    head_size: int = Field(gt=0, description="width of one attention head")
    layers: tuple[LayerShape, ...]
    norm_epsilon: float = Field(1e-12, gt=0)

    @model_validator(mode="after")
    def _has_layers(self) -> Self:
        if not self.layers:
            raise ValueError("an encoder needs at least one layer")
        return self

    def with_layers(self, shapes: Sequence[tuple[int, int]]) -> "Architecture":
        """Return the same architecture with `(heads, ffn)` per layer."""
        return self.model_copy(update={"layers": tuple(LayerShape(heads=h, ffn=f) for h, f in shapes)})

    def is_uniform(self) -> bool:
        """Whether a Hugging Face config can say this shape: equal layers whose heads fill the width."""
        first = self.layers[0]
        return len(set(self.layers)) == 1 and first.heads * self.head_size == self.width and first.ffn > 0

    def summary(self) -> str:
        """Return the shape in one line, for people: heads/neurons of each layer."""
        layers = " ".join(f"{layer.heads}/{layer.ffn}" for layer in self.layers)
        return f"{len(self.layers)} layers, width {self.width}, heads/ffn {layers}"
