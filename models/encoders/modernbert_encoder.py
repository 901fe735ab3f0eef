"""ModernEncoder: a ModernBERT encoder of any Architecture (Warner et al. 2024).

Differences from BERT: pre-norm sublayers, and a final norm after the last layer; rotary positions, which rotate
queries and keys (Su et al. 2021); a GeGLU FFN, which multiplies a GELU by a linear gate (Shazeer 2020); every N-th
layer attends to all tokens, the others to a local window. Outputs equal those of the model in transformers.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from models.architecture import Architecture, ModernSettings
from models.encoders.attention import attend
from models.encoders.dropout import Dropout
from models.encoders.layered import Layer, LayeredEncoder, TokenEmbeddings


@dataclass(frozen=True, slots=True)
class View:
    """Mask and rotary positions, shared by all global or all local layers in one forward pass."""

    mask: Tensor  # (batch, 1, tokens, tokens): True where a token attends to another
    cosine: Tensor  # (tokens, head_size): cosines of the rotary angles of each position
    sine: Tensor  # (tokens, head_size): sines of the rotary angles


class ModernEmbeddings(TokenEmbeddings):
    """Token embeddings and norm. Positions are applied in the attention (rotary), and there are no segments."""

    def __init__(self, architecture: Architecture, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(architecture.vocabulary, architecture.width)
        self.norm = make_norm(architecture)
        self.dropout = Dropout(dropout)

    def forward(self, ids: Tensor, types: Tensor) -> Tensor:
        """Return (batch, tokens, width) for ids (batch, tokens); only [SEP] separates the texts of a pair."""
        del types
        return self.dropout(self.norm(self.tokens(ids)))


class ModernAttention(nn.Module):
    """Norm, rotary self-attention, residual; without heads, only the output bias is added, if there is one."""

    def __init__(self, architecture: Architecture, layer: int, dropout: float) -> None:
        super().__init__()
        a, bias = architecture, settings_of(architecture).attention_bias
        self.heads, self.head_size = a.layers[layer].heads, a.head_size
        inner = self.heads * a.head_size
        self.norm = make_norm(a) if self.heads and layer else None  # layer 0 has none: the embeddings are normalized
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
        query, key = _rotate(query, view), _rotate(key, view)
        context = attend(query, key, value, view.mask)
        if gate is not None:
            context = context * gate[:, :, None, None]
        context = context.transpose(1, 2).reshape(batch, tokens, self.heads * self.head_size)
        return hidden + self.dropout(self.output(context))


class ModernFeedForward(nn.Module):
    """Norm, GeGLU (`rise`, then `fall`), residual.

    `rise` computes the input of the GELU and then the linear gate, `fall` is the down-projection. Without neurons,
    only the output bias is added, if there is one.
    """

    def __init__(self, architecture: Architecture, layer: int, dropout: float) -> None:
        super().__init__()
        a, bias = architecture, settings_of(architecture).ffn_bias
        neurons = a.layers[layer].ffn
        self.norm = make_norm(a) if neurons else None
        self.rise = nn.Linear(a.width, 2 * neurons, bias=bias) if neurons else None
        self.fall = nn.Linear(neurons, a.width, bias=bias) if neurons else None
        self.bias = nn.Parameter(torch.zeros(a.width)) if bias and not neurons else None
        self.dropout = Dropout(dropout)

    def forward(self, hidden: Tensor, gate: Tensor | None) -> Tensor:
        """Return (batch, tokens, width)."""
        if self.norm is None or self.rise is None or self.fall is None:
            return hidden if self.bias is None else hidden + self.bias
        activated, linear = self.rise(self.norm(hidden)).chunk(2, dim=-1)
        inner = functional.gelu(activated) * linear  # (batch, tokens, neurons)
        if gate is not None:
            inner = inner * gate[:, None, :]
        return hidden + self.fall(self.dropout(inner))


class ModernEncoder(LayeredEncoder):
    """The encoder of ModernBERT. The states after the layers are not normalized; the input of the head is."""

    def __init__(self, architecture: Architecture, dropout: float = 0.1) -> None:
        layers = (
            Layer(ModernAttention(architecture, i, dropout), ModernFeedForward(architecture, i, dropout))
            for i in range(len(architecture.layers))
        )
        super().__init__(architecture, ModernEmbeddings(architecture, dropout), layers)
        self.norm = make_norm(architecture)

    def views(self, mask: Tensor) -> list[View]:
        """Return the global or the local view of each layer."""
        view_of, every = make_views(mask, self.architecture), settings_of(self.architecture).global_every
        return [view_of[index % every == 0] for index in range(len(self.layers))]

    def finish(self, hidden: Tensor) -> Tensor:
        """Return the input of the head for the states after the last layer: the normalized states."""
        return self.norm(hidden)


def settings_of(architecture: Architecture) -> ModernSettings:
    """Return the settings of a modernbert; Architecture ensures that they are set."""
    assert architecture.modern is not None
    return architecture.modern


def make_norm(architecture: Architecture) -> nn.LayerNorm:
    """Return a new layer norm over the hidden size."""
    return nn.LayerNorm(architecture.width, eps=architecture.norm_epsilon, bias=settings_of(architecture).norm_bias)


def make_views(mask: Tensor, architecture: Architecture) -> dict[bool, View]:
    """Return the global view (key True) and the local one (key False) for a mask (batch, tokens)."""
    settings, head_size, tokens = settings_of(architecture), architecture.head_size, mask.shape[1]
    positions = torch.arange(tokens, device=mask.device)
    distance = (positions[:, None] - positions[None, :]).abs()
    real = mask[:, None, None, :].bool()
    # every token attends to itself, also padding far from the text: some kernels return NaN for a fully masked row
    local = (real & (distance <= settings.window // 2)) | (distance == 0)
    return {
        True: View(real.expand(-1, -1, tokens, -1), *angles(positions, head_size, settings.global_theta)),
        False: View(local, *angles(positions, head_size, settings.local_theta)),
    }


def angles(positions: Tensor, head_size: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosines and sines, (tokens, head_size), of the rotary angles.

    The angle of dimension pair i of a head is position · theta^(-2i / head_size).
    """
    frequencies = theta ** -(torch.arange(0, head_size, 2, device=positions.device).float() / head_size)
    half = positions[:, None].float() * frequencies
    full = torch.cat((half, half), dim=-1)
    return full.cos(), full.sin()


def _rotate(states: Tensor, view: View) -> Tensor:
    """Return states (batch, heads, tokens, head_size) with dimensions i and i + head_size/2 rotated as a pair."""
    first, second = states.chunk(2, dim=-1)
    rotated = states * view.cosine + torch.cat((-second, first), dim=-1) * view.sine
    return rotated.to(states.dtype)  # cosines and sines are fp32, even if the matrices are bf16
