"""DebertaEncoder: the encoder of DeBERTa-v2 and v3 of any Architecture (He et al. 2021, 2023).

Differences from BERT: an attention score is the sum of query · key, of query · key of the relative position (c2p),
and of key · query of the relative position (p2c). A table has one row for each distance, or for each bucket of
distances; each layer projects it to keys and queries, with matrices of its own or with those of the tokens. Outputs
equal those of the model in transformers on all tokens but padding.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from models.architecture import Architecture, DebertaSettings
from models.encoders.attention import MASKED_BIAS
from models.encoders.bert_encoder import Attention, Embeddings, FeedForward
from models.encoders.layered import Layer, LayeredEncoder


@dataclass(frozen=True, slots=True)
class View:
    """Mask and relative positions, shared by all layers in one forward pass."""

    mask: Tensor  # (batch, 1, 1, tokens): True on real tokens
    relative: Tensor | None  # (rows, width): the rows of the table that occur, normalized; None: no such positions
    index: Tensor  # (tokens, tokens): the row of each query and key


class DebertaEmbeddings(Embeddings):
    """Embeddings of tokens, and the table of relative positions, which the attention of all layers uses."""

    def __init__(self, architecture: Architecture, dropout: float) -> None:
        super().__init__(architecture, dropout)
        a, settings = architecture, deberta_settings(architecture)
        self.relative = nn.Embedding(2 * settings.rows, a.width) if settings.relative else None
        normed = settings.norm_relative
        self.relative_norm = nn.LayerNorm(a.width, eps=a.norm_epsilon) if normed else None


class PositionProjection(nn.Module):
    """Weight and bias that project relative positions; no nn.Linear, because its inputs are no tokens of a text."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * 0.02)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, relative: Tensor) -> Tensor:
        """Return (rows, outputs) of relative positions (rows, inputs)."""
        return functional.linear(relative, self.weight, self.bias)


class DisentangledAttention(Attention):
    """Self-attention with c2p and p2c scores, residual and norm; without heads, only the output bias is added."""

    def __init__(self, architecture: Architecture, heads: int, dropout: float) -> None:
        super().__init__(architecture, heads, dropout)
        settings, inner = deberta_settings(architecture), heads * architecture.head_size
        own = settings.relative and not settings.share_key and heads > 0
        self.settings = settings
        self.pos_key = PositionProjection(architecture.width, inner) if own and settings.c2p else None
        self.pos_query = PositionProjection(architecture.width, inner) if own and settings.p2c else None

    def mix(self, query: Tensor, key: Tensor, value: Tensor, view: View) -> Tensor:
        """Return the mixed values, (batch, heads, tokens, head_size), as queries, keys and values."""
        scale = (self.settings.parts * self.head_size) ** -0.5
        query, key_scaled = query * scale, key * scale
        scores = query @ key.transpose(-1, -2)
        if view.relative is not None:
            scores = scores + self._position_scores(query, key_scaled, view.relative, view.index)
        bias = view.mask.new_zeros(view.mask.shape, dtype=scores.dtype).masked_fill_(~view.mask, MASKED_BIAS)
        return (scores + bias).softmax(-1, dtype=scores.dtype) @ value

    def _position_scores(self, query: Tensor, key: Tensor, relative: Tensor, index: Tensor) -> Tensor | float:
        """Return c2p and p2c scores, (batch, heads, tokens, tokens), of scaled queries and keys."""
        scores: Tensor | float = 0.0
        expanded = index.expand(*query.shape[:2], *index.shape)
        if self.settings.c2p:
            by_row = query @ self._project("key", relative).transpose(-1, -2)  # (batch, heads, tokens, rows)
            scores = scores + by_row.gather(-1, expanded)
        if self.settings.p2c:
            by_row = key @ self._project("query", relative).transpose(-1, -2)
            scores = scores + by_row.gather(-1, expanded.transpose(-1, -2)).transpose(-1, -2)
        return scores

    def _project(self, part: str, relative: Tensor) -> Tensor:
        """Return the keys or queries of relative positions, (heads, rows, head_size)."""
        own = self.pos_key if part == "key" else self.pos_query
        if own is not None:
            projected = own(relative)
        else:
            assert self.qkv is not None
            rows = projection_rows(part, self.heads * self.head_size)
            projected = functional.linear(relative, self.qkv.weight[rows], self.qkv.bias[rows])
        return projected.view(len(relative), self.heads, self.head_size).transpose(0, 1)


class DebertaEncoder(LayeredEncoder):
    """The encoder of DeBERTa-v2 and v3."""

    embeddings: DebertaEmbeddings

    def __init__(self, architecture: Architecture, dropout: float = 0.1) -> None:
        layers = (
            Layer(
                DisentangledAttention(architecture, shape.heads, dropout),
                FeedForward(architecture, shape.ffn, dropout),
            )
            for shape in architecture.layers
        )
        super().__init__(architecture, DebertaEmbeddings(architecture, dropout), layers)

    def views(self, mask: Tensor) -> list[View]:
        """Return the same view for each layer, for a mask (batch, tokens)."""
        tokens, embeddings = mask.shape[1], self.embeddings
        rows = position_rows(tokens, deberta_settings(self.architecture)).to(mask.device)
        places = torch.arange(tokens, device=mask.device)
        index = rows[places[:, None] - places + tokens - 1] - rows[0]
        relative = None
        if embeddings.relative is not None:
            relative = embeddings.relative.weight[rows[0] : rows[-1] + 1]
            if embeddings.relative_norm is not None:
                relative = embeddings.relative_norm(relative)
        return [View(mask[:, None, None, :].bool(), relative, index)] * len(self.layers)


def deberta_settings(architecture: Architecture) -> DebertaSettings:
    """Return the settings of a deberta-v2; Architecture ensures that they are set."""
    assert architecture.deberta is not None
    return architecture.deberta


def projection_rows(part: str, inner: int) -> slice:
    """Return the rows of the joined QKV matrix that make queries or keys; `inner` is heads · head_size."""
    return slice(0, inner) if part == "query" else slice(inner, 2 * inner)


def position_rows(tokens: int, settings: DebertaSettings) -> Tensor:
    """Return the row in the table of relative positions of each distance in a text, (2 · tokens - 1,), ascending.

    A distance is the query's position minus the key's, from 1 - tokens to tokens - 1. Near distances have a row each;
    the rows of far ones are logarithmic buckets, if there are any. The formula, with its rounding in fp32, is that of
    `make_log_bucket_position` in transformers.
    """
    distance = torch.arange(1 - tokens, tokens)
    bucket, middle = distance, settings.buckets // 2
    if settings.buckets:
        far = torch.where(distance.abs() < middle, middle - 1, distance.abs())
        logarithm = torch.log(far / middle) / torch.log(torch.tensor((settings.span - 1) / middle))
        rounded = torch.ceil(logarithm * (middle - 1)) + middle
        bucket = torch.where(far <= middle, distance, (rounded * distance.sign()).long())
    return (bucket + settings.rows).clamp(0, 2 * settings.rows - 1)
