"""MPNetEncoder: BERT's encoder with a bias in the attention for the distance of two tokens (Song et al. 2020).

The bias is T5's (Raffel et al. 2020): distances are sorted into 32 classes, half of them for keys after the query;
near distances have a class each, far ones share classes whose widths grow with the logarithm of the distance. A
trained table, which all layers share, has a number for each class and head. A layer that lost heads reads the columns
of those that it kept.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from models.architecture import Architecture, RelativeBias
from models.encoders.attention import attend
from models.encoders.bert_encoder import Attention, Encoder

CLASSES, FARTHEST = 32, 128  # transformers fixes both, whatever config.json says; from FARTHEST on, one class


@dataclass(frozen=True, slots=True)
class View:
    """Mask and relative positions of one forward pass."""

    mask: Tensor  # (batch, 1, 1, tokens): True on real tokens
    bias: Tensor  # (heads of the table, tokens, tokens): added to the scores of each query and key


class PositionBias(nn.Embedding):
    """The table (classes, heads) of the bias."""

    def spread(self, tokens: int) -> Tensor:
        """Return the bias of each query and key, (heads, tokens, tokens), for texts of `tokens` tokens."""
        by_distance = self.weight[distance_classes(tokens).to(self.weight.device)].T  # (heads, 2 * tokens - 1)
        return by_distance.unfold(1, tokens, 1).flip(1)  # query i reads the distances from -i to tokens - 1 - i


class Columns(nn.Module):
    """The heads that a pruned layer kept, as columns of the table: `weight`, (heads,), int64, not trained."""

    weight: Tensor

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.arange(heads))


class MPNetAttention(Attention):
    """BERT's attention, with the bias added to its scores."""

    def __init__(self, architecture: Architecture, heads: int, dropout: float) -> None:
        super().__init__(architecture, heads, dropout)
        self.columns = Columns(heads) if 0 < heads < relative_of(architecture).heads else None

    def mix(self, query: Tensor, key: Tensor, value: Tensor, view: View) -> Tensor:
        """Return the mixed values, (batch, heads, tokens, head_size)."""
        bias = view.bias if self.columns is None else view.bias[self.columns.weight]
        return attend(query, key, value, view.mask, bias)


class MPNetEncoder(Encoder):
    """The encoder of MPNet."""

    attention = MPNetAttention

    def __init__(self, architecture: Architecture, dropout: float = 0.1) -> None:
        super().__init__(architecture, dropout)
        relative = relative_of(architecture)
        self.relative = PositionBias(relative.buckets, relative.heads)

    def views(self, mask: Tensor) -> list[Any]:
        """Return the view of each layer for a mask (batch, tokens); all layers have the same."""
        return [View(mask[:, None, None, :].bool(), self.relative.spread(mask.shape[1]))] * len(self.layers)


def relative_of(architecture: Architecture) -> RelativeBias:
    """Return the size of the table; Architecture ensures that an mpnet has one."""
    assert architecture.relative is not None
    return architecture.relative


@lru_cache(maxsize=1024)
@torch.inference_mode(False)  # whatever the first caller does, a later one may train
def distance_classes(tokens: int) -> Tensor:
    """Return the class of each distance (key's position minus query's) from 1 - tokens to tokens - 1, int64.

    The operations are those of transformers' MPNetEncoder.relative_position_bucket, in the same order and precision.
    """
    distance = torch.arange(1 - tokens, tokens)
    half, near = CLASSES // 2, CLASSES // 4
    size = distance.abs()
    logarithm = torch.log(size.float() / near) / math.log(FARTHEST / near) * (half - near)
    far = near + logarithm.clamp(min=0).to(torch.long)  # negative for near distances, which have their own classes
    return (distance > 0).long() * half + torch.where(size < near, size, far.clamp(max=half - 1))
