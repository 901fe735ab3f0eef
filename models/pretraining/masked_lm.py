"""MaskedLanguageModel: an encoder with a head that predicts masked tokens (Devlin et al. 2019), and its checkpoints.

The head is BERT's: dense, GELU, norm, and a decoder that shares its weights with the token embeddings (Press and Wolf
2017), plus a bias. It is computed at the masked positions only: at 15 % of the tokens that saves most of the time of
a small model, whose largest matrix is the token embedding.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from models.architecture import Architecture
from models.checkpoint import load_encoder, read_tensors, save_encoder
from models.classifier import make_encoder
from models.encoders.activations import ACTIVATIONS
from models.encoders.bert_encoder import Encoder
from models.errors import FolderError, InputError
from models.families import FAMILIES

STD = 0.02  # standard deviation of new weights
_ROBERTA = {"dense": "lm_head.dense", "norm": "lm_head.layer_norm", "bias": "lm_head.bias"}
_BERT = {
    "dense": "cls.predictions.transform.dense",
    "norm": "cls.predictions.transform.LayerNorm",
    "bias": "cls.predictions.bias",
}
HEADS: dict[str, dict[str, str]] = {  # family → part of the head → name in transformers
    "bert": _BERT,
    "ernie": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "mpnet": _ROBERTA,
    "distilbert": {"dense": "vocab_transform", "norm": "vocab_layer_norm", "bias": "vocab_projector.bias"},
}


@dataclass(frozen=True, slots=True)
class MaskedBatch:
    """Rows with masked tokens, on one device."""

    ids: Tensor  # (batch, tokens), the input of the model
    mask: Tensor  # (batch, tokens), 1 on real tokens
    positions: Tensor  # (masked,), indices into the flattened ids
    targets: Tensor  # (masked,), the original tokens at these positions


class PredictionHead(nn.Module):
    """BERT's head for masked tokens, without the matrix that it shares with the token embeddings."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.dense = nn.Linear(architecture.width, architecture.width)
        self.activation = ACTIVATIONS[architecture.activation]
        self.norm = nn.LayerNorm(architecture.width, eps=architecture.norm_epsilon)
        self.bias = nn.Parameter(torch.zeros(architecture.vocabulary))

    def forward(self, states: Tensor, table: Tensor) -> Tensor:
        """Return logits (masked, vocabulary) from states (masked, width) and token embeddings (vocabulary, width)."""
        return functional.linear(self.norm(self.activation(self.dense(states))), table, self.bias)


class MaskedLanguageModel(nn.Module):
    """An encoder and a prediction head: computes logits for the masked tokens of a batch."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = PredictionHead(encoder.architecture)
        initialize(self.head)

    @property
    def architecture(self) -> Architecture:
        """Shape of the encoder."""
        return self.encoder.architecture

    def forward(self, batch: MaskedBatch) -> Tensor:
        """Return logits (masked, vocabulary), in the order of `batch.positions`."""
        states, _ = self.encoder(batch.ids, batch.mask, torch.zeros_like(batch.ids))
        return self.head(states.flatten(0, 1)[batch.positions], self.encoder.embeddings.tokens.weight)


def initialize(module: nn.Module) -> None:
    """Initialize like BERT: matrices normal(0, 0.02), biases 0, norm weights 1."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=STD)
        if isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
        if isinstance(part, nn.Linear | nn.LayerNorm):
            nn.init.zeros_(part.bias)


@torch.no_grad()
def set_sinusoidal_positions(table: Tensor) -> None:
    """Set position embeddings (positions, width) to the sines and cosines of Vaswani et al. (2017).

    They are scaled to the size of the token embeddings, and trained further. With random position embeddings,
    attention must first learn which positions are adjacent: for millions of tokens the model learns nothing but
    the frequency of words (docs/results/training.md).
    """
    positions, width = table.shape
    frequencies = 10_000 ** (-torch.arange(0, width, 2) / width)  # radians per position
    angles = torch.arange(positions)[:, None] * frequencies  # (positions, ceil(width / 2))
    sinusoids = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
    table.copy_(sinusoids[:, :width] * STD * math.sqrt(2))


def new_masked_model(architecture: Architecture, dropout: float, seed: int) -> MaskedLanguageModel:
    """Return a model with new weights."""
    torch.manual_seed(seed)
    encoder = make_encoder(architecture, dropout)
    assert isinstance(encoder, Encoder), "the families in HEADS have one"
    initialize(encoder)
    set_sinusoidal_positions(encoder.embeddings.get_parameter("positions.weight"))
    return MaskedLanguageModel(encoder).eval()


def load_masked_model(folder: Path, dropout: float = 0.1, seed: int = 0) -> MaskedLanguageModel:
    """Return the model in a folder; if the folder holds only an encoder, the head is new.

    Args:
        folder: a Hugging Face folder of one of the families in `HEADS`, with or without a masked-language head.
        dropout: share of the hidden states set to zero in training.
        seed: random seed of a new head.

    Raises:
        FolderError: the folder cannot be read, or has only a part of the head.
        InputError: pretraining does not support the family of the encoder.
    """
    encoder = load_encoder(folder, dropout)
    family = encoder.architecture.family
    if family not in HEADS or not isinstance(encoder, Encoder):
        raise InputError(f"{folder} is a {family!r} encoder; pretraining supports {', '.join(HEADS)}")
    torch.manual_seed(seed)
    model = MaskedLanguageModel(encoder)
    head, stored = _named_head(model), read_tensors(folder)
    if head.keys() & stored.keys():
        for name, tensor in head.items():
            if name not in stored or stored[name].shape != tensor.shape:
                raise FolderError(f"{folder} lacks {name} of shape {tuple(tensor.shape)} beside the rest of its head")
            tensor.copy_(stored[name])
    return model.eval()


def save_masked_model(model: MaskedLanguageModel, folder: Path) -> None:
    """Write weights, `config.json` and `architecture.json`; transformers' ...ForMaskedLM loads the folder."""
    name = f"{FAMILIES[model.architecture.family].classes}ForMaskedLM"
    save_encoder(model.encoder, folder, extra=_named_head(model), architectures=name)


def _named_head(model: MaskedLanguageModel) -> dict[str, Tensor]:
    """Return the head's own tensors (not copies), by their names in transformers."""
    parts = HEADS[model.architecture.family]
    named = {}
    for name, tensor in model.head.state_dict().items():
        part, _, suffix = name.partition(".")
        named[f"{parts[part]}.{suffix}" if suffix else parts[part]] = tensor
    return named
