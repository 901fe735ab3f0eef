"""Encoder: a BERT-like encoder of any Architecture; its layers may differ in heads and neurons.

Post-norm layers, learned positions (RoBERTa and MPNet count none for the padding id, also where it stands inside a
text), GELU unless the checkpoint has another activation (Devlin et al. 2019). RoBERTa,
DistilBERT and ELECTRA differ only in their embeddings: DistilBERT has no segments, ELECTRA may have narrower tables
and a projection. Query, key and value are one matrix; `attend` applies the factor 1/sqrt(head_size). Outputs equal
those of the models in transformers with the same weights.
"""

from typing import Any

import torch
from torch import Tensor, nn

from models.architecture import Architecture
from models.encoders.activations import ACTIVATIONS
from models.encoders.attention import attend
from models.encoders.dropout import Dropout
from models.encoders.layered import Layer, LayeredEncoder, TokenEmbeddings
from models.families import FAMILIES


class Embeddings(TokenEmbeddings):
    """Sum of token, position and segment embeddings, then norm; projected if tables are narrower than the layers."""

    def __init__(self, architecture: Architecture, dropout: float) -> None:
        super().__init__()
        a = architecture
        self.tokens = nn.Embedding(a.vocabulary, a.table_width)
        self.uncounted = FAMILIES[a.family].uncounted_id(a.pad_id)  # tokens with this id share the first row
        rows = a.positions + (self.uncounted is not None)
        self.positions = nn.Embedding(rows, a.table_width) if a.has_position_table else None
        self.types = nn.Embedding(a.token_types, a.table_width) if a.token_types else None
        self.norm = nn.LayerNorm(a.table_width, eps=a.norm_epsilon)
        self.dropout = Dropout(dropout)
        self.project = nn.Linear(a.table_width, a.width) if a.table_width != a.width else None

    def forward(self, ids: Tensor, types: Tensor) -> Tensor:
        """Return (batch, tokens, width) for ids and types (batch, tokens); without segments, types are unused."""
        summed = self.tokens(ids)  # (batch, tokens, table width)
        if self.positions is not None:
            summed = summed + self._places(ids)
        if self.types is not None:
            one_row = self.types.num_embeddings == 1  # then a tokenizer may still number the texts of a pair 0 and 1
            summed = summed + (self.types.weight[0] if one_row else self.types(types))
        hidden = self.dropout(self.norm(summed))
        return hidden if self.project is None else self.project(hidden)

    def _places(self, ids: Tensor) -> Tensor:
        """Return the position embeddings, (tokens, width), or (batch, tokens, width) where they depend on the ids."""
        assert self.positions is not None, "called only if there is a table"
        if self.uncounted is None:
            return self.positions.weight[: ids.shape[1]]
        counted = (ids != self.uncounted).long()
        return self.positions(counted.cumsum(dim=1) * counted)


class Attention(nn.Module):
    """Multi-head self-attention, residual and norm; without heads, only the output bias is added."""

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

    def forward(self, hidden: Tensor, view: Any, gate: Tensor | None) -> Tensor:
        """Return (batch, tokens, width); `view` is what `mix` needs, from the encoder's `views`."""
        if self.qkv is None or self.output is None:
            assert self.bias is not None
            return self.norm(hidden + self.bias)
        batch, tokens, _ = hidden.shape
        qkv = self.qkv(hidden).view(batch, tokens, 3, self.heads, self.head_size)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, tokens, head_size)
        context = self.mix(query, key, value, view)
        if gate is not None:
            context = context * gate[:, :, None, None]
        context = context.transpose(1, 2).reshape(batch, tokens, self.heads * self.head_size)
        return self.norm(hidden + self.dropout(self.output(context)))

    def mix(self, query: Tensor, key: Tensor, value: Tensor, view: Any) -> Tensor:
        """Return the mixed values, (batch, heads, tokens, head_size), as all arguments but the last.

        `view` is True on real tokens, (batch, 1, 1, tokens).
        """
        return attend(query, key, value, view)


class FeedForward(nn.Module):
    """Up-projection (`rise`), activation, down-projection (`fall`), residual and norm.

    Without neurons, only the output bias is added.
    """

    def __init__(self, architecture: Architecture, neurons: int, dropout: float) -> None:
        super().__init__()
        width = architecture.width
        self.rise = nn.Linear(width, neurons) if neurons else None
        self.fall = nn.Linear(neurons, width) if neurons else None
        self.bias = None if neurons else nn.Parameter(torch.zeros(width))
        self.activation = ACTIVATIONS[architecture.activation]
        self.norm = nn.LayerNorm(width, eps=architecture.norm_epsilon)
        self.dropout = Dropout(dropout)

    def forward(self, hidden: Tensor, gate: Tensor | None) -> Tensor:
        """Return (batch, tokens, width)."""
        if self.rise is None or self.fall is None:
            assert self.bias is not None
            return self.norm(hidden + self.bias)
        inner = self.activation(self.rise(hidden))  # (batch, tokens, neurons)
        if gate is not None:
            inner = inner * gate[:, None, :]
        return self.norm(hidden + self.dropout(self.fall(inner)))


class Encoder(LayeredEncoder):
    """The encoder of BERT, RoBERTa, DistilBERT and ELECTRA."""

    embeddings: Embeddings
    attention: type[Attention] = Attention  # of the layers; a family with another one sets it

    def __init__(self, architecture: Architecture, dropout: float = 0.1) -> None:
        layers = (
            Layer(self.attention(architecture, shape.heads, dropout), FeedForward(architecture, shape.ffn, dropout))
            for shape in architecture.layers
        )
        super().__init__(architecture, Embeddings(architecture, dropout), layers)

    def views(self, mask: Tensor) -> list[Any]:
        """Return the attention mask of each layer, (batch, 1, 1, tokens): True on real tokens."""
        return [mask[:, None, None, :].bool()] * len(self.layers)
