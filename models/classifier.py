"""Classifier: Encoder + head. It ends at the logits, so that every form of the model ends at the same place."""

import torch
from torch import Tensor, nn

from models.architecture import Architecture
from models.encoder import Encoder, Gates
from models.tokens import TokenBatch


class Head(nn.Module):
    """BERT's classification head: the first token's state → dense → tanh → logits."""

    def __init__(self, width: int, labels: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, labels)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits (batch, labels) of hidden states (batch, tokens, width)."""
        return self.out(self.dropout(torch.tanh(self.dense(hidden[:, 0]))))


class Classifier(nn.Module):
    """Texts as tokens → logits."""

    def __init__(self, architecture: Architecture, labels: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = Encoder(architecture, dropout)
        self.head = Head(architecture.width, labels, dropout)

    @property
    def architecture(self) -> Architecture:
        """Shape of the encoder."""
        return self.encoder.architecture

    @property
    def labels(self) -> int:
        """Number of logits."""
        return self.head.out.out_features

    def forward(self, batch: "TensorBatch", gates: Gates | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return logits (batch, labels), and the hidden states after each layer."""
        hidden, states = self.encoder(batch.ids, batch.mask, batch.types, gates)
        return self.head(hidden), states


class TensorBatch:
    """A TokenBatch as tensors on a device; each is (batch, tokens), int64."""

    def __init__(self, batch: TokenBatch, device: torch.device | str = "cpu") -> None:
        self.ids = torch.from_numpy(batch.ids).to(device)
        self.mask = torch.from_numpy(batch.mask).to(device)
        self.types = torch.from_numpy(batch.types).to(device)
