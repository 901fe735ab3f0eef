"""Encoder: a BERT-like encoder over an Architecture, whose layers may differ in width.

Post-norm layers, learned positions, GELU (Devlin et al. 2019). RoBERTa, DistilBERT and ELECTRA compute the same but
for their embeddings: no segments in DistilBERT, narrow tables and a projection in ELECTRA. Query, key and value are
one matrix, and the 1/sqrt(head_size) of attention is left to the kernel. Outputs equal those of transformers' models
on the same weights.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from models.architecture import Architecture, LayerShape
from models.attention import attend
from models.dropout import Dropout


@dataclass(frozen=True, slots=True)
class Gates:
    """Factors on each head's output and on each FFN neuron: 1 keeps, 0 removes.

    Shapes: heads[l] (batch or 1, heads), neurons[l] (batch or 1, ffn), one entry a layer. The gradient of the loss
    at 1 says what a head or a neuron is worth; zeros give the model that surgery must equal.
    """

    heads: list[Tensor]
    neurons: list[Tensor]


class Embeddings(nn.Module):
    """Token + position + segment embeddings, normalized; projected where the tables are narrower than the layers."""

    def __init__(self, architecture: Architecture, dropout: float) -> None:
        super().__init__()
        a = architecture
        self.tokens = nn.Embedding(a.vocabulary, a.table_width)
        self.positions = nn.Embedding(a.positions, a.table_width)
        self.types = nn.Embedding(a.token_types, a.table_width) if a.token_types else None
        self.norm = nn.LayerNorm(a.table_width, eps=a.norm_epsilon)
        self.dropout = Dropout(dropout)
        self.project = nn.Linear(a.table_width, a.width) if a.table_width != a.width else None

    def forward(self, ids: Tensor, types: Tensor) -> Tensor:
        """Return (batch, tokens, width) of ids and types (batch, tokens); types are not read where there are none."""
        summed = self.tokens(ids) + self.positions.weight[: ids.shape[1]]  # (batch, tokens, table width)
        if self.types is not None:
            summed = summed + self.types(types)
        hidden = self.dropout(self.norm(summed))
        return hidden if self.project is None else self.project(hidden)


class Attention(nn.Module):
    """Multi-head self-attention with its residual and norm; without heads only the output bias is added."""

    def __init__(self, architecture: Architecture, heads: int, dropout: float) -> None:
        super().__init__()
        a = architecture
        self.heads, self.head_size = heads, a.head_size
        inner = heads * a.head_size
        self.qkv = nn.Linear(a.width, 3 * inner) if heads else None
        self.output = nn.Linear(inner, a.width) if heads else None
        self.bias = None if heads else nn.Parameter(torch.zeros(a.width))
        self.norm = nn.LayerNorm(a.width, eps=a.norm_epsilon)
        self.dropout = Dropout(dropout)

    def forward(self, hidden: Tensor, mask: Tensor, gate: Tensor | None) -> Tensor:
        """Return (batch, tokens, width); `mask` is True on real tokens, (batch, 1, 1, tokens)."""
        if self.qkv is None or self.output is None:
            assert self.bias is not None
            return self.norm(hidden + self.bias)
        batch, tokens, _ = hidden.shape
        qkv = self.qkv(hidden).view(batch, tokens, 3, self.heads, self.head_size)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, tokens, head_size)
        mixed = attend(query, key, value, mask)
        if gate is not None:
            mixed = mixed * gate[:, :, None, None]
        mixed = mixed.transpose(1, 2).reshape(batch, tokens, self.heads * self.head_size)
        return self.norm(hidden + self.dropout(self.output(mixed)))


class FeedForward(nn.Module):
    """Two matrices with GELU between, residual and norm; without neurons only the output bias is added."""

    def __init__(self, architecture: Architecture, neurons: int, dropout: float) -> None:
        super().__init__()
        width = architecture.width
        self.rise = nn.Linear(width, neurons) if neurons else None
        self.fall = nn.Linear(neurons, width) if neurons else None
        self.bias = None if neurons else nn.Parameter(torch.zeros(width))
        self.norm = nn.LayerNorm(width, eps=architecture.norm_epsilon)
        self.dropout = Dropout(dropout)

    def forward(self, hidden: Tensor, gate: Tensor | None) -> Tensor:
        """Return (batch, tokens, width)."""
        if self.rise is None or self.fall is None:
            assert self.bias is not None
            return self.norm(hidden + self.bias)
        inner = functional.gelu(self.rise(hidden))  # (batch, tokens, neurons)
        if gate is not None:
            inner = inner * gate[:, None, :]
        return self.norm(hidden + self.dropout(self.fall(inner)))


class Layer(nn.Module):
    """Attention, then feed-forward."""

    def __init__(self, architecture: Architecture, shape: LayerShape, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(architecture, shape.heads, dropout)
        self.ffn = FeedForward(architecture, shape.ffn, dropout)

    def forward(self, hidden: Tensor, mask: Tensor, gates: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return (batch, tokens, width)."""
        head_gate, neuron_gate = gates if gates is not None else (None, None)
        return self.ffn(self.attention(hidden, mask, head_gate), neuron_gate)


class Encoder(nn.Module):
    """Token ids → hidden states."""

    def __init__(self, architecture: Architecture, dropout: float = 0.1) -> None:
        super().__init__()
        self.architecture = architecture
        self.embeddings = Embeddings(architecture, dropout)
        self.layers = nn.ModuleList(Layer(architecture, shape, dropout) for shape in architecture.layers)

    def forward(
        self, ids: Tensor, mask: Tensor, types: Tensor, gates: Gates | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the last hidden state and those after each layer, all (batch, tokens, width).

        Args:
            ids: token ids, (batch, tokens).
            mask: 1 on real tokens, 0 on padding, (batch, tokens).
            types: segment of each token, (batch, tokens).
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

    def views(self, mask: Tensor) -> list[Tensor]:
        """Return what each layer sees of a text besides its states: the real tokens, (batch, 1, 1, tokens)."""
        return [mask[:, None, None, :].bool()] * len(self.layers)

    def finish(self, hidden: Tensor) -> Tensor:
        """Return what the head reads, of the states after the last layer: the same."""
        return hidden
