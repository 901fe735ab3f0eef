"""LayeredEncoder: what all families of encoders share: embeddings, then layers of an attention and an FFN each."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from models.architecture import Architecture


@dataclass(frozen=True, slots=True)
class Gates:
    """Factors on each head's output and on each FFN neuron: 1 keeps, 0 removes.

    Shapes: heads[l] (batch or 1, heads), neurons[l] (batch or 1, ffn), one entry a layer. The gradient of the loss
    at 1 says what a head or a neuron is worth; zeros give the model that surgery must equal.
    """

    heads: list[Tensor]
    neurons: list[Tensor]


class TokenEmbeddings(nn.Module):
    """What every family's embeddings have."""

    tokens: nn.Embedding
    norm: nn.LayerNorm


class Layer(nn.Module):
    """Attention, then feed-forward."""

    def __init__(self, attention: nn.Module, ffn: nn.Module) -> None:
        super().__init__()
        self.attention, self.ffn = attention, ffn

    def forward(self, hidden: Tensor, view: Any, gates: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return (batch, tokens, width); `view` is what the attention sees of a text besides its states."""
        head_gate, neuron_gate = gates if gates is not None else (None, None)
        return self.ffn(self.attention(hidden, view, head_gate), neuron_gate)


class LayeredEncoder(nn.Module, ABC):
    """Token ids → hidden states."""

    embeddings: TokenEmbeddings

    def __init__(self, architecture: Architecture, embeddings: TokenEmbeddings, layers: Iterable[Layer]) -> None:
        super().__init__()
        self.architecture = architecture
        self.embeddings = embeddings
        self.layers = nn.ModuleList(layers)

    def forward(
        self, ids: Tensor, mask: Tensor, types: Tensor, gates: Gates | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return what the head reads and the states after each layer, all (batch, tokens, width).

        Args:
            ids: token ids, (batch, tokens).
            mask: 1 on real tokens, 0 on padding, (batch, tokens).
            types: segment of each token, (batch, tokens); not read by families that have none.
            gates: factors on heads and neurons; None leaves the encoder as it is.
        """
        views = self.views(mask)
        hidden = self.embeddings(ids, types)
        states = []
        for index, layer in enumerate(self.layers):
            gate = (gates.heads[index], gates.neurons[index]) if gates is not None else None
            hidden = layer(hidden, views[index], gate)
            states.append(hidden)
        return self.finish(hidden), states

    @abstractmethod
    def views(self, mask: Tensor) -> list[Any]:
        """Return what each layer sees of a text besides its states, of a mask (batch, tokens)."""

    def finish(self, hidden: Tensor) -> Tensor:
        """Return what the head reads, of the states after the last layer: the same."""
        return hidden
