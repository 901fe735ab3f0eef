"""ModernEncoder: ModernBERT over an Architecture (Warner et al. 2024).

What differs from BERT: norms stand before the sublayers, and one more after the last layer; positions are angles by
which queries and keys are turned (rotary, Su et al. 2021); the FFN multiplies a GELU by a linear part (GeGLU, Shazeer
2020); only every third layer or so sees all tokens, the others see a window. Outputs equal transformers' model.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from models.architecture import Architecture, ModernSettings
from models.attention import attend
from models.dropout import Dropout
from models.layered import Layer, LayeredEncoder, TokenEmbeddings


@dataclass(frozen=True, slots=True)
class View:
    """What the layers of one kind, global or local, share in one pass."""

    mask: Tensor  # (batch, 1, tokens, tokens): True where a token sees another
    cosine: Tensor  # (tokens, head_size), of each position's angles
    sine: Tensor


class ModernEmbeddings(TokenEmbeddings):
    """Token embeddings, normalized: positions come in as angles, segments are none."""

    def __init__(self, architecture: Architecture, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(architecture.vocabulary, architecture.width)
        self.norm = make_norm(architecture)
        self.dropout = Dropout(dropout)

    def forward(self, ids: Tensor, types: Tensor) -> Tensor:
        """Return (batch, tokens, width) of ids (batch, tokens); the texts of a pair are told apart by [SEP] alone."""
        del types
        return self.dropout(self.norm(self.tokens(ids)))


class ModernAttention(nn.Module):
    """Norm, rotary self-attention, residual; without heads only the output bias is added, if there is one."""

    def __init__(self, architecture: Architecture, layer: int, dropout: float) -> None:
        super().__init__()
        a, bias = architecture, settings_of(architecture).attention_bias
        self.heads, self.head_size = a.layers[layer].heads, a.head_size
        inner = self.heads * a.head_size
        self.norm = make_norm(a) if self.heads and layer else None  # the embeddings' norm is layer 0's
        self.qkv = nn.Linear(a.width, 3 * inner, bias=bias) if self.heads else None
        self.output = nn.Linear(inner, a.width, bias=bias) if self.heads else None
        self.bias = nn.Parameter(torch.zeros(a.width)) if bias and not self.heads else None
        self.dropout = Dropout(dropout)

    def forward(self, hidden: Tensor, view: View, gate: Tensor | None) -> Tensor:
        """Return (batch, tokens, width)."""
        if self.qkv is None or self.output is None:
            return hidden if self.bias is None else hidden + self.bias
        batch, tokens, _ = hidden.shape
        normed = hidden if self.norm is None else self.norm(hidden)
        qkv = self.qkv(normed).view(batch, tokens, 3, self.heads, self.head_size)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, tokens, head_size)
        query, key = _turned(query, view), _turned(key, view)
        mixed = attend(query, key, value, view.mask)
        if gate is not None:
            mixed = mixed * gate[:, :, None, None]
        mixed = mixed.transpose(1, 2).reshape(batch, tokens, self.heads * self.head_size)
        return hidden + self.dropout(self.output(mixed))


class ModernFeedForward(nn.Module):
    """Norm, GeGLU, residual; without neurons only the output bias is added, if there is one."""

    def __init__(self, architecture: Architecture, layer: int, dropout: float) -> None:
        super().__init__()
        a, bias = architecture, settings_of(architecture).ffn_bias
        neurons = a.layers[layer].ffn
        self.norm = make_norm(a) if neurons else None
        self.rise = nn.Linear(a.width, 2 * neurons, bias=bias) if neurons else None  # what is bent, then its factor
        self.fall = nn.Linear(neurons, a.width, bias=bias) if neurons else None
        self.bias = nn.Parameter(torch.zeros(a.width)) if bias and not neurons else None
        self.dropout = Dropout(dropout)

    def forward(self, hidden: Tensor, gate: Tensor | None) -> Tensor:
        """Return (batch, tokens, width)."""
        if self.norm is None or self.rise is None or self.fall is None:
            return hidden if self.bias is None else hidden + self.bias
        bent, factor = self.rise(self.norm(hidden)).chunk(2, dim=-1)
        inner = functional.gelu(bent) * factor  # (batch, tokens, neurons)
        if gate is not None:
            inner = inner * gate[:, None, :]
        return hidden + self.fall(self.dropout(inner))


class ModernEncoder(LayeredEncoder):
    """ModernBERT's encoder: the states after the layers are not normalized, what the head reads is."""

    def __init__(self, architecture: Architecture, dropout: float = 0.1) -> None:
        layers = (
            Layer(ModernAttention(architecture, i, dropout), ModernFeedForward(architecture, i, dropout))
            for i in range(len(architecture.layers))
        )
        super().__init__(architecture, ModernEmbeddings(architecture, dropout), layers)
        self.norm = make_norm(architecture)

    def views(self, mask: Tensor) -> list[View]:
        """Return all tokens or a window, and their angles, for each layer."""
        both, every = make_views(mask, self.architecture), settings_of(self.architecture).global_every
        return [both[index % every == 0] for index in range(len(self.layers))]

    def finish(self, hidden: Tensor) -> Tensor:
        """Return what the head reads, of the states after the last layer: normalized."""
        return self.norm(hidden)


def settings_of(architecture: Architecture) -> ModernSettings:
    """Return the settings that each modernbert has (Architecture sees to that)."""
    assert architecture.modern is not None
    return architecture.modern


def make_norm(architecture: Architecture) -> nn.LayerNorm:
    """Return a new norm over the width."""
    return nn.LayerNorm(architecture.width, eps=architecture.norm_epsilon, bias=settings_of(architecture).norm_bias)


def make_views(mask: Tensor, architecture: Architecture) -> dict[bool, View]:
    """Return the local view at False and the global one at True, for a mask (batch, tokens); each token sees one."""
    settings, tokens = settings_of(architecture), mask.shape[1]
    places = torch.arange(tokens, device=mask.device)
    distance = (places[:, None] - places[None, :]).abs()
    seen = mask[:, None, None, :].bool()
    # padding far from the text sees itself: a softmax over nothing is NaN in some kernels, and NaN spreads
    near = (seen & (distance <= settings.window // 2)) | (distance == 0)
    return {
        True: View(seen.expand(-1, -1, tokens, -1), *angles(places, architecture.head_size, settings.global_theta)),
        False: View(near, *angles(places, architecture.head_size, settings.local_theta)),
    }


def angles(places: Tensor, head_size: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosines and sines, (tokens, head_size): pair i of a head turns by place · theta^(-2i / head_size)."""
    speeds = theta ** -(torch.arange(0, head_size, 2, device=places.device).float() / head_size)
    half = places[:, None].float() * speeds
    turns = torch.cat((half, half), dim=-1)
    return turns.cos(), turns.sin()


def _turned(states: Tensor, view: View) -> Tensor:
    """Return states (batch, heads, tokens, head_size) with dimension i and i + head_size/2 turned as one pair."""
    first, second = states.chunk(2, dim=-1)
    turned = states * view.cosine + torch.cat((-second, first), dim=-1) * view.sine
    return turned.to(states.dtype)  # the angles are fp32 also where the matrices are bf16
