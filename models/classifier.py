"""Classifier: an encoder and a classification head.

The output is the logits, as in the exported ONNX models; `models.task` turns logits into scores and answers.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from models.architecture import Architecture
from models.encoders.activations import ACTIVATIONS
from models.encoders.bert_encoder import Encoder
from models.encoders.deberta_encoder import DebertaEncoder
from models.encoders.dropout import Dropout
from models.encoders.layered import Gates, LayeredEncoder
from models.encoders.modernbert_encoder import ModernEncoder, make_norm
from models.encoders.mpnet_encoder import MPNetEncoder
from models.tokenizer import TokenBatch

Make = Callable[[Architecture, float], LayeredEncoder]
# all other families: Encoder
ENCODERS: dict[str, Make] = {"modernbert": ModernEncoder, "mpnet": MPNetEncoder, "deberta-v2": DebertaEncoder}


def make_encoder(architecture: Architecture, dropout: float = 0.1) -> LayeredEncoder:
    """Return a new encoder of the architecture's family, with random weights."""
    return ENCODERS.get(architecture.family, Encoder)(architecture, dropout)


class Head(nn.Module):
    """Classification head: pooled hidden state → dense → activation → (ModernBERT only: norm) → dropout → logits.

    The pooled state is the first token's, or the mean over the real tokens, depending on the architecture. A linear
    head has the last layer only; it may divide the pooled state by its L2 norm before (`unit`).
    """

    def __init__(self, architecture: Architecture, labels: int, dropout: float) -> None:
        super().__init__()
        width, modern = architecture.width, architecture.modern
        self.pooling, self.form = architecture.pooling, architecture.head
        self.activation = ACTIVATIONS[architecture.head_activation]
        has_dense = self.form == "dense"
        self.dense = nn.Linear(width, width, bias=modern is None or modern.head_bias) if has_dense else None
        self.norm = make_norm(architecture) if modern is not None and has_dense else None
        self.dropout = Dropout(dropout)
        self.out = nn.Linear(width, labels)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return logits (batch, labels) of hidden states (batch, tokens, width) and a mask (batch, tokens)."""
        pooled = hidden[:, 0]
        if self.pooling == "mean":
            pooled = (hidden * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        if self.form == "unit":
            pooled = functional.normalize(pooled)
        features = pooled if self.dense is None else self.activation(self.dense(pooled))
        return self.out(self.dropout(features if self.norm is None else self.norm(features)))


class Classifier(nn.Module):
    """A batch of tokenized texts → logits."""

    def __init__(self, architecture: Architecture, labels: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = make_encoder(architecture, dropout)
        self.head = Head(architecture, labels, dropout)

    @property
    def architecture(self) -> Architecture:
        """Shape of the encoder."""
        return self.encoder.architecture

    @property
    def labels(self) -> int:
        """Number of logits."""
        return self.head.out.out_features

    def forward(self, batch: "TensorBatch", gates: Gates | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return logits (batch, labels), and the hidden states after each layer (batch, tokens, width)."""
        hidden, states = self.encoder(batch.ids, batch.mask, batch.types, gates)
        return self.head(hidden, batch.mask), states


class TensorBatch:
    """A TokenBatch as tensors on a device; each tensor is (batch, tokens), int64."""

    def __init__(self, batch: TokenBatch, device: torch.device | str = "cpu") -> None:
        self.ids = torch.from_numpy(batch.ids).to(device)
        self.mask = torch.from_numpy(batch.mask).to(device)
        self.types = torch.from_numpy(batch.types).to(device)
