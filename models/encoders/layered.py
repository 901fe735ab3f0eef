"""LayeredEncoder: base class of all encoders: embeddings, then layers with an attention and an FFN each."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from models.architecture import Architecture


@dataclass(frozen=True, slots=True)
class Gates:
    """Factors on the output of each head and on each FFN neuron: 1 keeps it, 0 removes it.

    Shapes: heads[l] (batch or 1, heads), neurons[l] (batch or 1, ffn), one entry per layer. The gradient of the loss
    at 1 measures the importance of a head or neuron. With zeros, the outputs are those of the model without these
    heads and neurons, with which the pruned model is compared.
    """

    heads: list[Tensor]
    neurons: list[Tensor]


class TokenEmbeddings(nn.Module):
    """Base class of the embeddings of all families."""

    tokens: nn.Embedding
    norm: nn.LayerNorm


class Layer(nn.Module):
    """Attention, then feed-forward."""

    def __init__(self, attention: nn.Module, ffn: nn.Module) -> None:
        super().__init__()
        self.attention, self.ffn = attention, ffn

    def forward(self, hidden: Tensor, view: Any, gates: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return (batch, tokens, width).

        Args:
            hidden: hidden states, (batch, tokens, width).
            view: mask and position information for the attention; its type depends on the family.
            gates: factors on the heads and on the neurons of this layer, or None.
        """
        head_gate, neuron_gate = gates if gates is not None else (None, None)
        return self.ffn(self.attention(hidden, view, head_gate), neuron_gate)


class LayeredEncoder(nn.Module, ABC):
    """Embeddings and layers: token ids → hidden states."""

    embeddings: TokenEmbeddings

    def __init__(self, architecture: Architecture, embeddings: TokenEmbeddings, layers: Iterable[Layer]) -> None:
        super().__init__()
        self.architecture = architecture
        self.embeddings = embeddings
        self.layers = nn.ModuleList(layers)

    def forward(
        self, ids: Tensor, mask: Tensor, types: Tensor, gates: Gates | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the input of the head and the hidden states after each layer, all (batch, tokens, width).

        Args:
            ids: token ids, (batch, tokens).
            mask: 1 on real tokens, 0 on padding, (batch, tokens).
            types: segment of each token, (batch, tokens); unused by families without segments.
            gates: factors on heads and neurons; None: no factors.
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
        """Return the mask and position information of each layer, for a mask (batch, tokens)."""

    def finish(self, hidden: Tensor) -> Tensor:
        """Return the input of the head for the states after the last layer; here, the states themselves."""
        return hidden
